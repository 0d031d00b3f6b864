"""The errors of environments: one family, so that an actor can tell a broken episode from a low score."""


class EnvError(Exception):
    """An environment can't go on. The episode counts as broken, never as reward 0."""


class SandboxError(EnvError):
    """The sandbox itself failed: not there, not answering, not clean. Never raised for what a program did."""
