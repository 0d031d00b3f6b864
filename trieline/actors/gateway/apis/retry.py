"""What clients are told of another try: the headers that the SDKs of both companies obey."""

import math

from trieline.actors.gateway.errors import ConflictError, OverloadedError, RefusedError

LONGEST_S = 60
"""The SDKs pass over a longer wait and take one of their own."""


def headers_of(error: RefusedError) -> dict[str, str]:
    """Those of a refusal."""
    if isinstance(error, OverloadedError):
        return {"Retry-After": str(min(max(1, math.ceil(error.retry_after_s)), LONGEST_S))}
    if isinstance(error, ConflictError):
        return {"x-should-retry": "false"}  # they would, with a 409
    return {}
