"""Bodies as no client would send them."""

import copy
import random
from collections.abc import Iterable, Iterator
from typing import Any

from trieline.actors.gateway.apis.api import Api
from trieline.actors.gateway.errors import BadRequestError

GONE = object()
NESTED: Any = []
for _ in range(2_000):
    NESTED = [NESTED]
HIDDEN: Any = {"x": {"x": [NESTED]}}
WRONG: tuple[Any, ...] = (
    GONE,
    None,
    True,
    0,
    -1,
    2**63,
    10**400,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "auto",
    "text",
    "function",
    "message",
    "{",
    "[1]",
    "\ud83d\x00",
    "x" * 10_000,
    [],
    [None],
    ["x"],
    [[]],
    [{}],
    [{"type": "text"}],
    NESTED,
    {},
    {"type": "text"},
    {"type": "function", "name": 1},
    {"type": []},
    {"": None},
    HIDDEN,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is anything in it, itself left out."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        yield (*at, name)
        yield from places(one, (*at, name))


def mutated(body: dict[str, Any], *, pairs: int = 300, nested: bool = True) -> Iterator[dict[str, Any]]:
    """`body` with each thing in it replaced by each of `WRONG`, then `pairs` with two replaced.

    `nested`: also by what is nested so deep that it can't be written.
    """
    spots = list(places(body))
    wrong = [value for value in WRONG if nested or (value is not NESTED and value is not HIDDEN)]
    for spot in spots:
        for value in wrong:
            yield with_replaced(body, spot, value)
    luck = random.Random(7)
    for _ in range(pairs):
        first, second = sorted(luck.sample(spots, 2), key=len, reverse=True)  # no spot in what is gone
        if first[: len(second)] != second:
            yield with_replaced(with_replaced(body, first, luck.choice(wrong)), second, luck.choice(wrong))


def with_replaced(body: dict[str, Any], spot: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed = copy.copy(body)
    holder: Any = changed
    for name in spot[:-1]:
        holder[name] = copy.copy(holder[name])
        holder = holder[name]
    if value is GONE:
        del holder[spot[-1]]
    else:
        holder[spot[-1]] = value
    return changed


def readings(api: Api, bodies: Iterable[dict[str, Any]]) -> tuple[int, int]:
    """How many are read, and how many refused in so many words; whatever else happens is an error."""
    readable = refusals = 0
    for body in bodies:
        try:
            readable += len(api.read(body, {}).messages) > 0
        except BadRequestError as error:
            refusals += str(api.error(error)[2]["error"]["message"]) == error.message != ""
    return readable, refusals
