"""Mistakes made in Python sources, a few bytes each."""
