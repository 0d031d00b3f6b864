"""How a reply is to be sampled, as far as all three APIs call it the same."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from trieline.actors.gateway.apis.json_body import MOST_STOPS, at_most, expected

MOST_TOKENS = 2**31 - 1
"""Of one reply. Clients that want no limit send the largest number that they have."""
ModelName = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Sampling(msgspec.Struct, kw_only=True):
    """The fields of a body that say so."""

    temperature: int | float | None = None
    top_p: int | float | None = None
    top_k: int | None = None
    seed: int | None = None
    stream: bool | None = None


def sampling_of(asked: Sampling, max_tokens: int | None, stop: str | Sequence[str] | None) -> dict[str, Any]:
    """The fields of `Asked` that they are."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    at_most(MOST_STOPS, len(stops), "stop", "stop strings")
    if max_tokens is not None and max_tokens < 1:
        raise expected(max_tokens, "at least 1", at="max_tokens")
    if asked.top_k is not None and not -1 <= asked.top_k < 2**31:
        raise expected(asked.top_k, "a number of tokens", at="top_k")
    if asked.seed is not None and not -(2**63) <= asked.seed < 2**63:
        raise expected(asked.seed, "a number of 64 bits", at="seed")
    top_p = _number(asked.top_p, "top_p", most=1)
    if top_p == 0:
        raise expected(top_p, "more than 0", at="top_p")
    return {
        "max_tokens": None if max_tokens is None else min(max_tokens, MOST_TOKENS),
        "temperature": _number(asked.temperature, "temperature", most=100),
        "top_p": top_p,
        "top_k": max(asked.top_k, 0) if asked.top_k is not None else None,
        "seed": asked.seed,
        "stop": stops,
        "stream": bool(asked.stream),
    }


def _number(value: float | None, name: str, *, most: int) -> float | None:
    if value is None:
        return None
    if not 0 <= value <= most:  # NaN is neither
        raise expected(value, f"a number from 0 to {most}", at=name)
    return float(value)
