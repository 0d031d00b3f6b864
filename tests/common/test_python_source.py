"""Threads that parse at once get their trees."""

import ast
import gc
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from trieline.common.python_source import syntax_tree

SOURCE = "\n".join(f"def f{n}(x):\n    return [x, (x + {n}) * [{n}, {{x: x}}][0]]" for n in range(200))


@pytest.fixture
def _eager() -> Iterator[None]:
    """Threads take turns wherever they can: in the middle of a tree, when garbage is collected."""

    def nothing(phase: str, info: dict[str, int]) -> None:
        sum(range(50))

    before, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(40)
    gc.callbacks.append(nothing)
    yield
    gc.callbacks.remove(nothing)
    gc.set_threshold(*threshold)
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_eager")
def test_threads_parse_at_once() -> None:
    expected = ast.dump(ast.parse(SOURCE))
    with ThreadPoolExecutor(4) as pool:
        trees = list(pool.map(lambda _: ast.dump(syntax_tree(SOURCE)), range(24)))
    assert set(trees) == {expected}
    with pytest.raises(SyntaxError):
        syntax_tree("def")
