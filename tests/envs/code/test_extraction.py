"""Functions are found in what models write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trieline.envs.code.extraction import extract_source

GOOD = [
    "def f(x): return x + 3",
    "def f(x):\n    return x + 3",
    "```python\ndef f(x):\n    return x + 3\n```",
    "```\ndef f(x):\n    return x + 3",
    "Here is the function:\n\n```py\ndef f(x: int) -> int:\n    return x + 3\n```\nIt adds 3.",
    "Sure! def f(x): return x + 3",
    "def f(x):\n    return x + 3\n\nprint(f(10))  # Returns",
    "def f(x):\n    return x + 3\nThis adds three.",
    "def plus_three(x):\n    return x + 3",
    "    def f(x):\n        return x + 3",
    "import math\ndef f(x):\n    return int(math.fsum([x, 3]))",
    "f = lambda x: x + 3",
    "lambda x: x + 3",
    "return x + 3",
    "    y = x + 1\n    return y + 2",
    "x + 3",
    "`x + 3`",
    "```python\nreturn x + 3\n```",
    "x + 3  # plus three",
]


@pytest.mark.parametrize("reply", GOOD)
def test_functions_are_found(reply: str) -> None:
    namespace: dict[str, object] = {}
    exec(extract_source(reply, "x"), namespace)
    functions = [value for value in namespace.values() if callable(value)]
    assert functions[-1](4) == 7


@given(st.text(max_size=200))
def test_any_text_gives_some_source(reply: str) -> None:
    assert isinstance(extract_source(reply, "x"), str)


@pytest.mark.parametrize(
    "reply",
    ["`" * 100_000, "def " * 30_000, "(" * 100_000, "\n" * 100_000, "def f(" * 20_000, "```py " * 20_000],
)
def test_long_replies_are_cut(reply: str) -> None:
    assert len(extract_source(reply, "x")) < 25_000
