"""The generated puzzles of reasoning-gym, in one environment."""
