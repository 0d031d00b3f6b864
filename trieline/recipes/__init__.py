"""Recipes: complete configurations that ship with the package."""
