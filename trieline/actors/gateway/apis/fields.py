"""Fields of a request that are not read: those without an effect, those refused, and those nobody knows."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from trieline.actors.gateway.apis.json_body import wrong
from trieline.common.text import shortened, shown_value

logger = logging.getLogger(__name__)

MOST_SAID = 256
"""Names that are logged, once each: strangers choose them."""
NOTHING: tuple[Any, ...] = (None, False, "", [], {})
"""Values with which a field asks for nothing."""


class Refused:
    """Fields that would change the reply and can't be had, with the values of each that ask for nothing."""

    def __init__(self, **neutral: tuple[Any, ...]) -> None:
        """By name: the values that are as good as none, beside `NOTHING`."""
        self.neutral = neutral

    def check(self, body: Mapping[str, Any]) -> None:
        """Raise `BadRequestError` for the first that asks for something."""
        for name in body:
            if name in self.neutral and not _among(body[name], (*NOTHING, *self.neutral[name])):
                most = " or ".join(map(repr, self.neutral[name]))
                instead = f"can only be {most}" if most else "is not supported"
                raise wrong(at=name, why=f"{instead} here, got {shown_value(body[name])}")


def _among(value: Any, values: Iterable[Any]) -> bool:
    """Is it one of them? 0 is not False, and 0.0 is 0."""
    return any(value == one and isinstance(value, bool) is isinstance(one, bool) for one in values)


_said: set[tuple[str, str]] = set()


def say_once(where: str, name: str, what: str) -> None:
    """Log a line of what a client sends, the first time that it comes."""
    if (where, name) not in _said and len(_said) < MOST_SAID:
        _said.add((where, name))
        logger.info("%s: %s %s", where, shortened(name, 80), what)


def say_unknown(where: str, names: Iterable[Any], known: Iterable[str]) -> None:
    """Log the fields that are none of the known ones. They have no effect."""
    for name in set(names).difference(known):
        say_once(where, str(name), "is no field that is known here: it has no effect")
