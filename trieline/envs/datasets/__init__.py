"""Data sets: the files that they are in, rows by split, level and id, and environments that ask them."""
