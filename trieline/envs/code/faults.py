"""Wrong versions of a right function: one small fault each, as people make them, in one line of its source.

The operators work on the syntax tree of our own sources (`templates`, `loops`, `files`): a constant off by
one; an operator, comparison, function or method exchanged for its neighbour; operands swapped; a condition
inverted; a call or a step left out. Whether a version is really wrong is for its caller to see.
"""

import ast
import copy
from collections.abc import Iterator

_BINARY: dict[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub, ast.Mult),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add, ast.Sub),
    ast.Div: (ast.FloorDiv,),
    ast.FloorDiv: (ast.Mod, ast.Div),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
}
_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_NAMES = {
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


def wrong_versions(source: str) -> tuple[str, ...]:
    """Versions of `source`, a function, that differ in one place, in an order that never changes.

    Written as `ast.unparse` does, as `plain` writes the right one.
    """
    tree = ast.parse(source)
    right = ast.unparse(tree)
    found: dict[str, None] = {}
    for number, node in enumerate(ast.walk(tree)):
        for change in range(len(list(_changes(node)))):
            version: ast.AST = copy.deepcopy(tree)
            # The same walk through the copy meets the same nodes.
            place = next(other for n, other in enumerate(ast.walk(version)) if n == number)
            replacement = list(_changes(place))[change]
            if replacement is not place:
                version = _Replacing(place, replacement).visit(version)
            found[ast.unparse(ast.fix_missing_locations(version))] = None
    return tuple(text for text in found if text != right)


def plain(source: str) -> str:
    """`source` in the form of its wrong versions."""
    return ast.unparse(ast.parse(source))


class _Replacing(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of `node`."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        for value in (node.value + 1, node.value - 1):
            if value >= 0:
                yield ast.Constant(value)
    elif isinstance(node, ast.BinOp):
        for kind in _BINARY.get(type(node.op), ()):
            yield ast.BinOp(node.left, kind(), node.right)
        if isinstance(node.op, (ast.Sub, ast.Add, ast.FloorDiv, ast.Mod, ast.Pow)):
            yield ast.BinOp(node.right, node.op, node.left)
        if isinstance(node.op, (ast.Add, ast.Sub, ast.Mult)):
            yield node.left
    elif isinstance(node, ast.Compare):
        for comparison in _COMPARISONS.get(type(node.ops[-1]), ()):
            yield ast.Compare(node.left, [*node.ops[:-1], comparison()], node.comparators)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        for name in _NAMES.get(node.id, ()):
            yield ast.Name(name, node.ctx)
    elif isinstance(node, ast.Attribute):
        for name in _NAMES.get(node.attr, ()):
            yield ast.Attribute(node.value, name, node.ctx)
    elif isinstance(node, ast.Call) and len(node.args) == 1 and isinstance(node.func, ast.Name):
        yield node.args[0]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node.operand
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield ast.BoolOp(other, node.values)
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(node.test, node.orelse, node.body)
    elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
        yield ast.AugAssign(node.target, ast.Sub(), node.value)
        yield ast.Assign([node.target], node.value)
