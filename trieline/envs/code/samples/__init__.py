"""A few rows of each kind, written for this package in the published columns."""
