"""Folders with a model's files: found, fetched, made."""
