"""Python source as a syntax tree, whichever thread asks for it."""

import ast
import threading

_parsing = threading.Lock()


def syntax_tree(source: str | bytes) -> ast.Module:
    """`ast.parse`, one at a time, with its errors.

    Some versions of CPython (3.11.7 is one) count the depth of a tree for the whole interpreter: where two
    threads parse at once, one may get SystemError, "AST constructor recursion depth mismatch".
    """
    with _parsing:
        return ast.parse(source)
