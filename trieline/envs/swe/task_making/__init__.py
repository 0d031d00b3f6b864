"""Tasks made of packages: candidates from releases, history and mutations, and what verifies them."""
