"""Changes of a Python file as the fewest bytes that make them: what is not changed stays as it was typed."""

import ast
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from trieline.common.python_source import syntax_tree

MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Edit:
    """The bytes from `start` up to `end` become `text`."""

    start: int
    end: int
    text: bytes


class Source:
    """A parsed file, and where in its bytes the nodes of its tree are."""

    def __init__(self, data: bytes) -> None:
        """Raises ValueError for what is no Python, or whose lines the parser counts in another way."""
        if b"\r" in data or b"\f" in data or data.startswith(MARK):
            msg = "expected lines that end in line feeds alone, and no byte-order mark"
            raise ValueError(msg)
        self.data = data
        self.tree = parsed(data)
        self._starts = [0]
        for line in data.split(b"\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)

    def line_start(self, line: int) -> int:
        """Of a line, counted from 1; the end of the file for those beyond."""
        return min(self._starts[min(line, len(self._starts)) - 1], len(self.data))

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Start and end of a node, without parentheses around it."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self._starts[node.lineno - 1] + node.col_offset,
            self._starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def text(self, node: ast.expr | ast.stmt) -> bytes:
        """A node as it was typed."""
        start, end = self.span(node)
        return self.data[start:end]

    def replaced(self, node: ast.expr | ast.stmt, text: bytes) -> Edit:
        """The edit that puts `text` in place of a node."""
        start, end = self.span(node)
        return Edit(start=start, end=end, text=text)

    def own_lines(self, node: ast.stmt) -> tuple[int, int] | None:
        """The bytes of the whole lines of a statement, if nothing but a comment shares them."""
        start, end = self.span(node)
        assert node.end_lineno is not None
        first, after = self.line_start(node.lineno), self.line_start(node.end_lineno + 1)
        rest = self.data[end:after].strip()
        if self.data[first:start].strip() or (rest and not rest.startswith(b"#")):
            return None
        return first, after


def edited(data: bytes, edits: Iterable[Edit]) -> bytes:
    """`data` with all edits made. Raises ValueError if two of them overlap."""
    parts, place = [], 0
    for edit in sorted(edits):
        if edit.start < place:
            msg = f"expected edits that do not overlap, got one at {edit.start} and one up to {place}"
            raise ValueError(msg)
        parts += [data[place : edit.start], edit.text]
        place = edit.end
    return b"".join([*parts, data[place:]])


def parsed(data: bytes) -> ast.Module:
    """The tree of a file that compiles. Raises ValueError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = syntax_tree(data)
            compile(data, "source", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        msg = f"expected Python: {error}"
        raise ValueError(msg) from error
    return tree
