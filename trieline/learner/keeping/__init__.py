"""What a run leaves: checkpoints, weights for the policy servers, metrics."""
