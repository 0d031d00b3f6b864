"""Integers are read as models write them, and parts of other things are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trieline.envs.integers import integers

LITERALS = {
    "9801": "9801",
    "9801.": "9801",
    "The answer is 9801!": "9801",
    "9,801": "9801",
    "9,801.": "9801",
    "1,234,567": "1234567",
    "1 012": "1012",
    "1\u00a0012": "1012",
    "1\u2009012": "1012",
    "1\u202f012": "1012",
    "1_012": "1012",
    "1'012": "1012",
    "1’012": "1012",
    "1{,}012": "1012",
    "$1\\,012$": "1012",
    "$9,801$": "9801",
    "$9,801": "9801",
    "\\boxed{9,801}": "9801",
    "\\(9801\\)": "9801",
    "**9,801**": "9801",
    "*9801*": "9801",
    "_9801_": "9801",
    "__9801__": "9801",
    "`9801`": "9801",
    '"9801"': "9801",
    "'9801'": "9801",
    "(9801)": "9801",
    "= 9801": "9801",
    "Answer:9801": "9801",
    "the answer is...9801": "9801",
    "-18": "-18",
    "−18": "-18",
    "–18": "-18",
    "‑18": "-18",
    "**-18**": "-18",
    "_-18_": "-18",
    "-1,012": "-1012",
    "=−1,012": "-1012",
    "$-9{,}801$": "-9801",
    "\\boxed{-9801}": "-9801",
    "+18": "18",
    "12-30": "12 30",
    "12 - 30": "12 30",
    "3–7": "3 7",
    "(12)-30": "12 30",
    "９８０１": "9801",
    "－９，８０１": "-9801",
    "答案是9801。": "9801",
    "9801円": "9801",
    "7%": "7",
    "007": "007",
    "12, 13 or 14": "12 13 14",
    "1, 234": "1 234",
    "12 3456": "12 3456",
    "2024 100": "2024 100",
    "x_7 is 5": "5",
}


@pytest.mark.parametrize("text", LITERALS)
def test_literals_are_read(text: str) -> None:
    assert " ".join(integers(text)) == LITERALS[text]


@pytest.mark.parametrize(
    "text",
    [
        "7.5",
        "7,5",
        ".5",
        "is .5",
        "9.801",
        "9801.0",
        "1,012.50",
        "1 012,5",
        "1 012.50",
        "1.012,50",
        "98,01",
        "1,0123",
        "12,34,567",
        "1,234,56",
        "24/2",
        "10^2",
        "10²",
        "7:30",
        "7th",
        "x7",
        "x_7",
        "1e3",
        "0x1F",
        "v1.2.3",
        "٧",
        "seven",
        "",
        "-",
        "1,2,3",
    ],
)
def test_parts_of_something_else_are_none(text: str) -> None:
    assert list(integers(text)) == []


@given(st.integers(), st.sampled_from([",", "_"]))
def test_python_and_english_grouping_is_undone(number: int, separator: str) -> None:
    assert [*map(int, integers(f"It is {number:{separator}}."))] == [number]


@given(st.text(alphabet="0123456789 ,._-−'{}\\/x", max_size=40))
def test_what_is_read_is_an_integer(text: str) -> None:
    assert all(str(int(literal)) for literal in integers(text))
