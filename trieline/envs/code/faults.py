"""Wrong versions of a right function: one small fault each, as people make them, in one line of its source.

The faults are the mutations that tasks out of packages are made by, as far as they change one line, and names
of functions and methods in the place of their neighbours'. Whether a version is really wrong is for others to
see.
"""

import ast
from collections.abc import Iterator

from trieline.envs.mutation.mutations import mutations_of
from trieline.envs.mutation.operators import OPERATORS, Edits
from trieline.envs.mutation.source_edits import Source

NAMES = {
    "max": ("min",),
    "min": ("max",),
    "sum": ("len", "max"),
    "len": ("sum",),
    "sorted": ("list",),
    "set": ("list",),
    "upper": ("lower", "title"),
    "lower": ("upper",),
    "startswith": ("endswith",),
    "endswith": ("startswith",),
}


def exchanged_name(source: Source, node: ast.AST) -> Iterator[Edits]:
    """`max` to `min`, `s.upper()` to `s.lower()` and the like."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        for name in NAMES.get(node.id, ()):
            yield (source.replaced(node, name.encode()),)
    elif isinstance(node, ast.Attribute):
        before = source.text(node.value) + b"."
        for name in NAMES.get(node.attr, ()):
            yield (source.replaced(node, before + name.encode()),)


def wrong_versions(source: str) -> tuple[str, ...]:
    """Versions of `source` that differ in one line, in an order that never changes."""
    lines = source.split("\n")
    found: dict[str, None] = {}
    for mutation in mutations_of(source.encode(), OPERATORS | {"exchanged_name": exchanged_name}):
        version = mutation.applied(source.encode()).decode()
        changed = version.split("\n")
        if len(changed) == len(lines) and sum(a != b for a, b in zip(changed, lines, strict=True)) == 1:
            found[version] = None
    return tuple(found)
