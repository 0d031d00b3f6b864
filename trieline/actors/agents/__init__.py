"""Agents that play the policy's episodes: programs of their own, started for each task."""
