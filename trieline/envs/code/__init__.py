"""Code: programs that the agent writes, run in a sandbox."""
