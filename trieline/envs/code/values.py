"""Python values as JSON and back, inside a sandbox and outside of it.

Plain ones only: of any other object no more than the name of its type crosses, so nothing that a program
made can act on the side that looks at it. Its text is passed to `python3 -c` before that of a program that
uses it, so it imports nothing of ours.
"""

import json
from typing import Any

MAX_ITEMS = 2000
"""Of one returned value, counted through all its levels."""
MAX_TEXT = 10_000


def encode(value: Any, budget: list[int] | None = None) -> Any:
    """A value as JSON that tells lists from tuples, sets and dicts. Raises ValueError if it is too large."""
    budget = budget if budget is not None else [MAX_ITEMS]
    budget[0] -= 1
    if budget[0] < 0:
        msg = "too many items"
        raise ValueError(msg)
    kind = type(value)
    if value is None or kind in (bool, float):
        return value
    if kind is int:
        if value.bit_length() > 4000:
            msg = "too large an integer"
            raise ValueError(msg)
        return value
    if kind is str:
        if len(value) > MAX_TEXT:
            msg = "too long a text"
            raise ValueError(msg)
        return value
    if kind in (list, tuple):
        return [kind.__name__, *[encode(item, budget) for item in value]]
    if kind in (set, frozenset):
        return ["set", *sorted((encode(item, budget) for item in value), key=repr)]
    if kind is dict:
        return ["dict", *[[encode(key, budget), encode(item, budget)] for key, item in value.items()]]
    if kind is complex:
        return ["complex", value.real, value.imag]
    if kind in (bytes, bytearray):
        return ["bytes", encode(value.decode("latin-1"), budget)]
    return ["other", kind.__name__[:100]]


class Other:
    """An object of which only the name of its type came over. It equals nothing."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"<{self.kind}>"

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = object.__hash__


def decode(encoded: Any) -> Any:
    """What `encode` made of a value, as a value again. Raises ValueError for what it did not make."""
    if not isinstance(encoded, list):
        return encoded
    if not encoded or not isinstance(encoded[0], str):
        raise ValueError(encoded)
    kind, *items = encoded
    if kind == "dict":
        return {_key(decode(key)): decode(item) for key, item in items}
    if kind == "complex":
        return complex(*items)
    if kind == "bytes":
        return items[0].encode("latin-1")
    if kind == "other":
        return Other(*items)
    values = [decode(item) for item in items]
    if kind == "list":
        return values
    if kind == "tuple":
        return tuple(values)
    if kind == "set":
        return {_key(value) for value in values}
    raise ValueError(kind)


def _key(value: Any) -> Any:
    """Of sets only frozen ones can be in a set."""
    return frozenset(value) if type(value) is set else value


def dumped(value: Any) -> str:
    """A call or a value in one text, equal for equal ones."""
    return json.dumps(encode(value))
