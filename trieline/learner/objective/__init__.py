"""Losses on flat columns of sampled tokens."""
