"""The launcher: starts the programs of a run on one machine, watches them, and writes up what came of it."""
