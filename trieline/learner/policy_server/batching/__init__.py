"""Continuous batching on any device: requests, their tokens, grammars and ends."""
