"""The root of all errors that a user can cause. Each package has a family of its own below it."""


class TrielineError(Exception):
    """Its message says, in a line, what was expected and what came."""


class LockError(TrielineError):
    """Another process holds what this one needs alone. The message names its process id."""
