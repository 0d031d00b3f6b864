"""Refusals as OpenAI's APIs say them."""

from typing import Any

from trieline.actors.gateway.apis.retry import headers_of
from trieline.actors.gateway.errors import ContextLengthError, Kind, RefusedError

# Type and code. Clients act on `context_length_exceeded`, and on the status for the rest.
_SAID: dict[Kind, tuple[str, str | None]] = {
    "invalid": ("invalid_request_error", None),
    "context_length": ("invalid_request_error", "context_length_exceeded"),
    "unknown_key": ("invalid_request_error", "invalid_api_key"),
    "not_found": ("invalid_request_error", "not_found"),
    "conflict": ("invalid_request_error", "conflict"),
    "too_large": ("invalid_request_error", "request_too_large"),
    "overloaded": ("rate_limit_error", "rate_limit_exceeded"),
    "upstream": ("server_error", "upstream_unavailable"),
    "deadline": ("server_error", "timeout"),
}


def error_fields(error: RefusedError) -> dict[str, Any]:
    """What stands under `error`."""
    kind, code = _SAID[error.kind]
    return {"message": said(error), "type": kind, "param": error.param or None, "code": code}


def said(error: RefusedError) -> str:
    """The message. Some clients know a full context by these words alone."""
    if isinstance(error, ContextLengthError):
        return (
            f"This model's maximum context length is {error.most} tokens, "
            f"and the request exceeds the context window with {error.found}."
        )
    return error.message


def refusal(error: RefusedError) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and body."""
    return error.status, headers_of(error), {"error": error_fields(error)}
