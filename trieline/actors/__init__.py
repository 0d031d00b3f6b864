"""Actors: episodes become token trees here. Nothing below this package imports torch."""
