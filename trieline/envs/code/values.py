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
    if value is None or isinstance(value, bool):
        return value
    # Of a class of its own, what it is made of, without asking it: a Counter is a dict, a T(int) an int.
    if isinstance(value, int):
        if int.bit_length(value) > 4000:
            msg = "too large an integer"
            raise ValueError(msg)
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        if str.__len__(value) > MAX_TEXT:
            msg = "too long a text"
            raise ValueError(msg)
        return str.__str__(value)
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", encode(bytes(memoryview(value)).decode("latin-1"), budget)]
    if isinstance(value, complex):
        return ["complex", complex.__complex__(value).real, complex.__complex__(value).imag]
    return _encode_items(value, budget)


def _encode_items(value: Any, budget: list[int]) -> Any:
    if isinstance(value, list):
        return ["list", *[encode(item, budget) for item in list.__iter__(value)]]
    if isinstance(value, tuple):
        return ["tuple", *[encode(item, budget) for item in tuple.__iter__(value)]]
    if isinstance(value, (set, frozenset)):
        items = set.__iter__(value) if isinstance(value, set) else frozenset.__iter__(value)
        return ["set", *sorted((encode(item, budget) for item in items), key=repr)]
    if isinstance(value, dict):
        return ["dict", *[[encode(key, budget), encode(item, budget)] for key, item in dict.items(value)]]
    return ["other", type(value).__name__[:100]]


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
