"""The mistakes that mutations make: each function finds the places in a file where one kind can be made.

The kinds are those that people make by hand (an operator, a bound, a forgotten line) and that SWE-smith
(arXiv 2504.21798) found to give tasks: they change what the code does, and seldom whether it runs at all.
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from trieline.envs.mutation.source_edits import Edit, Source, parsed

MOST_GUARD_LINES = 6
LARGEST_CONSTANT = 10_000
Edits = tuple[Edit, ...]
Finder = Callable[[Source, ast.AST], Iterator[Edits]]

_COMPARED: Mapping[type[ast.cmpop], tuple[bytes, bytes]] = {
    ast.Lt: (b"<", b"<="),
    ast.LtE: (b"<=", b"<"),
    ast.Gt: (b">", b">="),
    ast.GtE: (b">=", b">"),
    ast.Eq: (b"==", b"!="),
    ast.NotEq: (b"!=", b"=="),
    ast.Is: (b"is", b"is not"),
    ast.IsNot: (b"is not", b"is"),
    ast.In: (b"in", b"not in"),
    ast.NotIn: (b"not in", b"in"),
}
_COMPUTED: Mapping[type[ast.operator], tuple[bytes, bytes]] = {
    ast.Add: (b"+", b"-"),
    ast.Sub: (b"-", b"+"),
    ast.Mult: (b"*", b"+"),
    ast.Div: (b"/", b"//"),
    ast.FloorDiv: (b"//", b"/"),
    ast.Mod: (b"%", b"//"),
    ast.Pow: (b"**", b"*"),
    ast.LShift: (b"<<", b">>"),
    ast.RShift: (b">>", b"<<"),
    ast.BitAnd: (b"&", b"|"),
    ast.BitOr: (b"|", b"&"),
    ast.BitXor: (b"^", b"|"),
}
_TURNED = (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.Add)
"""Operators whose operands matter by their order; `+` does for text and lists."""


def nodes_of_code(tree: ast.Module) -> Iterator[ast.AST]:
    """Classes, functions, and all that runs when one is called; no annotations, decorators or f-strings.

    In an f-string the parser of Python 3.11 does not know the places of nodes.
    """
    waiting: list[tuple[ast.AST, bool]] = [(tree, False)]
    while waiting:
        node, called = waiting.pop()
        if isinstance(node, ast.JoinedStr | ast.arguments):
            continue
        inside = called or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if inside or isinstance(node, ast.ClassDef):
            yield node
        waiting += reversed([(child, inside) for child in _children(node)])


def _children(node: ast.AST) -> Sequence[ast.AST]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.body
    if isinstance(node, ast.AnnAssign):
        return [node.target, *([node.value] if node.value else [])]
    return list(ast.iter_child_nodes(node))


def _conditions(node: ast.AST) -> Sequence[ast.expr]:
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        return [node.test]
    return node.ifs if isinstance(node, ast.comprehension) else []


def inverted_condition(source: Source, node: ast.AST) -> Iterator[Edits]:
    """`if x:` to `if not x:`, and back."""
    for test in _conditions(node):
        text = source.text(test)
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            yield (source.replaced(test, source.text(test.operand)),)
        elif isinstance(test, ast.Compare) and len(test.ops) == 1:
            continue  # changed_operator says that in fewer characters
        elif isinstance(test, ast.BoolOp | ast.IfExp | ast.NamedExpr | ast.Lambda):
            yield (source.replaced(test, b"not (" + text + b")"),)
        else:
            yield (source.replaced(test, b"not " + text),)


def changed_operator(source: Source, node: ast.AST) -> Iterator[Edits]:
    """`<` to `<=`, `+` to `-`, `+=` to `-=`, `in` to `not in` and the like."""
    if isinstance(node, ast.Compare):
        for left, op, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            yield from _operator(source, left, right, *_COMPARED[type(op)])
    elif isinstance(node, ast.BinOp) and type(node.op) in _COMPUTED:
        yield from _operator(source, node.left, node.right, *_COMPUTED[type(node.op)])
    elif isinstance(node, ast.AugAssign) and type(node.op) in _COMPUTED:
        was, new = _COMPUTED[type(node.op)]
        yield from _operator(source, node.target, node.value, was + b"=", new + b"=")


def _operator(source: Source, left: ast.expr, right: ast.expr, was: bytes, new: bytes) -> Iterator[Edits]:
    start, end = source.span(left)[1], source.span(right)[0]
    between = source.data[start:end]
    if between.replace(b"(", b"").replace(b")", b"").strip() == was:
        place = start + between.index(was)
        yield (Edit(start=place, end=place + len(was), text=new),)


def swapped_operands(source: Source, node: ast.AST) -> Iterator[Edits]:
    """`a - b` to `b - a`, and two arguments of a call in each other's place."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, _TURNED):
        pair = (node.left, node.right)
        if any(isinstance(operand, ast.BinOp | ast.BoolOp | ast.Compare | ast.IfExp) for operand in pair):
            return
    elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Lt | ast.Gt | ast.In):
        pair = (node.left, node.comparators[0])
    elif isinstance(node, ast.Call) and len(node.args) >= 2:
        pair = (node.args[0], node.args[1])
        if any(isinstance(argument, ast.Starred | ast.GeneratorExp) for argument in pair):
            return
    else:
        return
    first, second = (source.text(operand) for operand in pair)
    if first != second:
        yield source.replaced(pair[0], second), source.replaced(pair[1], first)


def off_by_one(source: Source, node: ast.AST) -> Iterator[Edits]:
    """A whole number to the next or the one before."""
    if not isinstance(node, ast.Constant) or type(node.value) is not int or node.value > LARGEST_CONSTANT:
        return
    if source.text(node).isdigit():
        yield (source.replaced(node, b"%d" % (node.value + 1)),)
        if node.value > 0:
            yield (source.replaced(node, b"%d" % (node.value - 1)),)


def changed_constant(source: Source, node: ast.AST) -> Iterator[Edits]:
    """`True` to `False`, and back."""
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield (source.replaced(node, b"%r" % (not node.value)),)


def broken_boolean_chain(source: Source, node: ast.AST) -> Iterator[Edits]:
    """`a and b` to `a or b`, to `a`, or to `b`."""
    if not isinstance(node, ast.BoolOp):
        return
    was, new = (b"and", b"or") if isinstance(node.op, ast.And) else (b"or", b"and")
    if len(node.values) == 2:
        yield from _operator(source, node.values[0], node.values[1], was, new)
    spans = [source.span(value) for value in node.values]
    for left, right in pairwise(spans):
        between = source.data[left[1] : right[0]]
        if between.strip() == was:  # no parentheses are torn apart
            yield (Edit(start=left[1], end=right[1], text=b""),)
            yield (Edit(start=left[0], end=right[0], text=b""),)


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        if isinstance(block, list) and block and not isinstance(node, ast.ClassDef):
            yield block


def removed_statement(source: Source, node: ast.AST) -> Iterator[Edits]:
    """A line of a block is forgotten; a short guard (`if ...: return`) counts as one."""
    for block in _blocks(node):
        for statement in block if len(block) > 1 else ():
            lines = source.own_lines(statement)
            if lines is not None and _can_go(statement):
                yield (Edit(start=lines[0], end=lines[1], text=b""),)


def _can_go(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Call | ast.Yield | ast.YieldFrom | ast.Await)
    if isinstance(statement, ast.If) and not statement.orelse:
        lines = (statement.end_lineno or 0) - statement.lineno + 1
        return lines <= MOST_GUARD_LINES
    return isinstance(statement, ast.Assign | ast.AugAssign | ast.Raise | ast.Return | ast.Delete)


def removed_wrapper(source: Source, node: ast.AST) -> Iterator[Edits]:
    """`f(x)` to `x`; the body of an `if`, a `with` or a `try` without what stood around it."""
    if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
        if isinstance(node.args[0], ast.Starred | ast.GeneratorExp):
            return
        # In brackets where it may need them: it stood between some.
        plain = isinstance(node.args[0], ast.Name | ast.Constant | ast.Attribute | ast.Call | ast.Subscript)
        text = source.text(node.args[0])
        yield (source.replaced(node, text if plain else b"(" + text + b")"),)
    elif (
        (isinstance(node, ast.If) and not node.orelse)
        or (isinstance(node, ast.With) and all(item.optional_vars is None for item in node.items))
        or (isinstance(node, ast.Try) and not (node.orelse or node.finalbody))
    ):
        yield from _unwrapped(source, node.body, node)


def _unwrapped(source: Source, body: list[ast.stmt], node: ast.If | ast.With | ast.Try) -> Iterator[Edits]:
    whole = source.own_lines(node)
    first, last = body[0], body[-1]
    assert last.end_lineno is not None
    depth = first.col_offset - node.col_offset
    if whole is None or depth <= 0 or first.lineno == node.lineno or source.text(node).startswith(b"elif"):
        return
    lines = source.data[source.line_start(first.lineno) : source.line_start(last.end_lineno + 1)]
    text = b"".join(line.removeprefix(b" " * depth) for line in lines.splitlines(keepends=True))
    start = source.line_start(node.lineno)
    try:
        # Lines of a text in quotes must not have moved. A `return` needs a function around it.
        probe = parsed(b"async def probe():\n" + b" " * node.col_offset + b" while 1:\n" + _indented(text))
    except ValueError:
        return
    if _dumped(_innermost(probe)) == _dumped(body):
        yield (Edit(start=start, end=whole[1], text=text),)


def _indented(text: bytes) -> bytes:
    return b"".join(b"  " + line for line in text.splitlines(keepends=True))


def _innermost(probe: ast.Module) -> list[ast.stmt]:
    function = probe.body[0]
    assert isinstance(function, ast.AsyncFunctionDef)
    loop = function.body[0]
    assert isinstance(loop, ast.While)
    return loop.body


def _dumped(body: Sequence[ast.stmt]) -> list[str]:
    return [ast.dump(statement) for statement in body]


def changed_loop(source: Source, node: ast.AST) -> Iterator[Edits]:
    """A loop that leaves out its first round, runs once, or goes on where it should end, and back."""
    if isinstance(node, ast.For) and isinstance(node.iter, ast.Name | ast.Attribute):
        yield (source.replaced(node.iter, source.text(node.iter) + b"[1:]"),)
    elif isinstance(node, ast.While) and not node.orelse:
        start = source.span(node)[0]
        yield (Edit(start=start, end=start + len(b"while"), text=b"if"),)
    elif isinstance(node, ast.Break | ast.Continue):
        yield (source.replaced(node, b"continue" if isinstance(node, ast.Break) else b"break"),)


def dropped_base_class(source: Source, node: ast.AST) -> Iterator[Edits]:
    """`class A(B):` to `class A:`, and `class A(B, C):` to `class A(C):`."""
    if not isinstance(node, ast.ClassDef) or not node.bases or node.keywords:
        return
    spans = [source.span(base) for base in node.bases]
    if len(spans) == 1:
        before = re.search(rb"\(\s*\Z", source.data[: spans[0][0]])
        after = re.match(rb"\s*,?\s*\)", source.data[spans[0][1] :])
        if before and after:
            yield (Edit(start=before.start(), end=spans[0][1] + after.end(), text=b""),)
        return
    for left, right in pairwise(spans):
        yield (Edit(start=left[0], end=right[0], text=b""),)
    yield (Edit(start=spans[-2][1], end=spans[-1][1], text=b""),)


OPERATORS: dict[str, Finder] = {
    finder.__name__: finder
    for finder in (
        inverted_condition,
        changed_operator,
        swapped_operands,
        off_by_one,
        changed_constant,
        broken_boolean_chain,
        removed_statement,
        removed_wrapper,
        changed_loop,
        dropped_base_class,
    )
}
