"""Tools in the hands of an agent: a shell in a small sandbox."""
