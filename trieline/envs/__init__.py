"""Environments: programs with which an agent talks in text. Nothing here knows of tokens."""
