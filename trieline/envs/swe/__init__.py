"""Whole repositories in the style of SWE-bench: tasks, predictions and patches in the official formats."""
