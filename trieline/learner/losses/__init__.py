"""Policy losses, one a module, each on flat columns of sampled tokens; none knows of trees or packs."""
