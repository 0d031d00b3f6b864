"""Why a request gets no reply: one family. Each API says it in a form of its own (`apis`)."""

from typing import Literal

from trieline.actors.errors import ActorError

Kind = Literal[
    "invalid",
    "context_length",
    "unknown_key",
    "not_found",
    "conflict",
    "too_large",
    "overloaded",
    "upstream",
    "deadline",
]


class RefusedError(ActorError):
    """A request that gets no reply."""

    status = 400
    """Of HTTP."""
    kind: Kind = "invalid"

    def __init__(self, message: str, *, param: str = "") -> None:
        """`message` says what was expected and what came. `param`: the field that is wrong, as a path."""
        super().__init__(message)
        self.message = message
        self.param = param


class BadRequestError(RefusedError):
    """The request itself is wrong, or asks for what can't be had here. It would be refused again."""


class ContextLengthError(BadRequestError):
    """The prompt is longer than the model can read. Agents that see it shorten their conversation."""

    kind = "context_length"

    def __init__(self, *, found: int, most: int) -> None:
        """In tokens: what the prompt has, and what it may have."""
        super().__init__(f"the prompt: expected at most {most} tokens, got {found}")
        self.found = found
        self.most = most


class UnknownKeyError(RefusedError):
    """No key, or one that opens no session."""

    status = 401
    kind = "unknown_key"


class NotFoundError(RefusedError):
    """There is nothing at that address."""

    status = 404
    kind = "not_found"


class ConflictError(RefusedError):
    """What it speaks of is over, or already otherwise."""

    status = 409
    kind = "conflict"


class TooLargeError(RefusedError):
    """More bytes than a body may have."""

    status = 413
    kind = "too_large"


class OverloadedError(RefusedError):
    """There is no room now. The same request may be sent again."""

    status = 429
    kind = "overloaded"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        """`retry_after_s`: seconds from now at which it is worth another try."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UpstreamError(RefusedError):
    """The policy server does not answer, or died in the middle of a reply."""

    status = 503
    kind = "upstream"


class DeadlineError(RefusedError):
    """No reply in the time that a request may take."""

    status = 504
    kind = "deadline"
