"""Mutations of files: the same for a seed, each a few bytes, each a program that means something else."""

import ast
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from trieline.envs.mutation.operators import OPERATORS, Finder, nodes_of_code
from trieline.envs.mutation.source_edits import Edit, Source, edited, parsed

COMBINED = "combined"
COMBINED_SHARE = 0.5
"""Of the mutations that come after another one of the same file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutation:
    """One mistake, or several that are made together (`combined`)."""

    operator: str
    """Its name, or `combined`."""
    edits: tuple[Edit, ...]

    def applied(self, data: bytes) -> bytes:
        """The file with the mistake in it."""
        return edited(data, self.edits)


def mutations_of(data: bytes, operators: Mapping[str, Finder] = OPERATORS) -> list[Mutation]:
    """Every single mutation of a file, in the order of its parse. [] for what is no Python."""
    tree = _meaning(data)
    proposed = [] if tree is None else _proposals(data, operators)
    return [m for m in proposed if _meaning(m.applied(data)) not in (tree, None)]


def _proposals(data: bytes, operators: Mapping[str, Finder] = OPERATORS) -> list[Mutation]:
    """Mutations of which nobody has looked yet whether they compile; no two give the same file."""
    try:
        source = Source(data)
    except ValueError:
        return []
    proposed: dict[tuple[Edit, ...], str] = {}
    for node in nodes_of_code(source.tree):
        for operator, finder in operators.items():
            for edits in finder(source, node):
                proposed.setdefault(tuple(sorted(edits)), operator)
    return [Mutation(operator=operator, edits=edits) for edits, operator in proposed.items()]


def _meaning(data: bytes) -> str | None:
    """The same for files that differ in their form alone; None for what does not compile."""
    try:
        return ast.dump(parsed(data))
    except ValueError:
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedMutation:
    """A mutation, and the file it is made in."""

    path: str
    mutation: Mutation


def drawn(files: Mapping[str, bytes], seed: str) -> Iterator[PlacedMutation]:
    """Mutations of all files, in rounds of one of each operator, in files drawn first: all kinds come."""
    rng = random.Random(seed)
    meanings = {path: _meaning(data) for path, data in files.items()}
    by_operator: dict[str, dict[str, list[Mutation]]] = {}
    for path in sorted(files):
        for mutation in _proposals(files[path]):
            by_operator.setdefault(mutation.operator, {}).setdefault(path, []).append(mutation)
    for places in by_operator.values():
        for mutations in places.values():
            rng.shuffle(mutations)

    def changes(placed: PlacedMutation) -> bool:
        try:
            mutated = placed.mutation.applied(files[placed.path])
        except ValueError:  # edits that overlap
            return False
        return _meaning(mutated) not in (meanings[placed.path], None)

    while by_operator:
        operators = rng.sample(sorted(by_operator), len(by_operator))
        singles: list[PlacedMutation] = []
        for placed in filter(changes, (_taken(by_operator[operator], rng) for operator in operators)):
            yield placed
            others = [other for other in singles if other.path == placed.path]
            if others and rng.random() < COMBINED_SHARE:
                yield from filter(changes, [_combined(placed, rng.choice(others))])
            singles.append(placed)
        by_operator = {operator: places for operator, places in by_operator.items() if places}


def _taken(places: dict[str, list[Mutation]], rng: random.Random) -> PlacedMutation:
    path = rng.choice(sorted(places))
    placed = PlacedMutation(path=path, mutation=places[path].pop())
    if not places[path]:
        del places[path]
    return placed


def _combined(one: PlacedMutation, other: PlacedMutation) -> PlacedMutation:
    edits = tuple(sorted((*one.mutation.edits, *other.mutation.edits)))
    return PlacedMutation(path=one.path, mutation=Mutation(operator=COMBINED, edits=edits))
