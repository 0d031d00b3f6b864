"""Samples that come with the package."""
