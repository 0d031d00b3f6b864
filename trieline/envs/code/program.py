"""A program that Repair breaks: a function, or a file of several, of which `f` is called and described.

No loop of such a program is of unknown length, and no fault of `faults` makes one: wrong versions are run on
this side to see that they are wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from trieline.envs.code.templates import Choices


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Program:
    """`source` defines f, which returns {description}."""

    name: str
    params: Mapping[str, str]
    """Name and kind of each parameter of f, in order; the kinds are those of `examples`."""
    description: str
    """May hold {constants}, as the source may."""
    source: str
    constants: Mapping[str, Choices] = field(default_factory=dict)
    held_out: bool = False


def program_row(name: str, params: str, description: str, source: str, **constants: Choices) -> Program:
    """`params` is 'name:kind name:kind'; a name that starts with '*' is held out."""
    held_out, name = name.startswith("*"), name.lstrip("*")
    kinds = dict(param.split(":") for param in params.split())
    return Program(
        name=name,
        params=kinds,
        description=description,
        source=source.strip("\n"),
        constants=constants,
        held_out=held_out,
    )
