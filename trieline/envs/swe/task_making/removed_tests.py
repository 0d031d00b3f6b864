"""Test files without some of their tests: what an agent sees before a test patch puts them back."""

import ast
from collections.abc import Collection

from trieline.envs.mutation.source_edits import Edit, Source, edited, parsed

Name = tuple[str, ...]
"""Of a function or method: those of its classes, and its own."""
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def test_name(test_id: str) -> tuple[str, Name]:
    """The file of a test of pytest, and its name there; the parameters are left out."""
    path, _, rest = test_id.partition("::")
    return path, tuple(rest.partition("[")[0].split("::"))


def without_tests(data: bytes, names: Collection[Name]) -> bytes | None:
    """The file without these tests; None if they can't be taken out one by one, or are all that it has."""
    try:
        source = Source(data)
        found = {name: node for name, node in _definitions(source.tree.body, ())}
        gone = _with_empty_classes([found[name] for name in names], source.tree)
        left = edited(data, (_removal(source, node) for node in gone))
        tree = parsed(left)
    except (KeyError, ValueError):
        return None
    return left if any(name[-1].startswith("test") for name, _ in _definitions(tree.body, ())) else None


def source_of_test(data: bytes, name: Name) -> str | None:
    """A test as it was typed, moved to the left; None if it is not found."""
    try:
        source = Source(data)
    except ValueError:
        return None
    node = dict(_definitions(source.tree.body, ())).get(name)
    if node is None or isinstance(node, ast.ClassDef):
        return None
    lines = source.data[source.line_start(node.lineno) : source.span(node)[1]].decode().split("\n")
    return "\n".join(
        line[node.col_offset :] if not line[: node.col_offset].strip() else line for line in lines
    )


def _definitions(body: list[ast.stmt], above: Name) -> list[tuple[Name, _Definition]]:
    found: list[tuple[Name, _Definition]] = []
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(((*above, node.name), node))
        elif isinstance(node, ast.ClassDef):
            found += [((*above, node.name), node), *_definitions(node.body, (*above, node.name))]
    return found


def _with_empty_classes(gone: list[_Definition], tree: ast.Module) -> list[_Definition]:
    """A class that nothing would be left of goes as a whole."""
    going = set(gone)
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for node in reversed(classes):  # the inner ones first
        rest = [one for one in node.body if one not in going and not _is_docstring(one)]
        if not rest:
            going.difference_update(ast.walk(node))
            going.add(node)
    inner = {child for node in going for child in ast.walk(node) if child is not node}
    return [node for node in going if node not in inner]


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _removal(source: Source, node: _Definition) -> Edit:
    """Its lines with its decorators, and the empty lines before. Raises ValueError if it shares a line."""
    whole = source.own_lines(node)
    if whole is None:
        msg = f"expected {node.name} on lines of its own"
        raise ValueError(msg)
    start = source.line_start(min([node.lineno, *(one.lineno for one in node.decorator_list)]))
    while (before := source.data[:start].rsplit(b"\n", 2)[-2:-1]) and not before[0].strip() and start > 0:
        start -= len(before[0]) + 1
    return Edit(start=start, end=whole[1], text=b"")
