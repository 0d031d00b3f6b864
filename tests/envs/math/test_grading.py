"""Answers are literals, graded by value; whatever else comes is wrong, and soon."""

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trieline.envs.errors import GraderError
from trieline.envs.math.form import is_worked_out
from trieline.envs.math.grading import grade, unwrap
from trieline.envs.math.grading_process import GradingPool


class _NoPool(GradingPool):
    def verify(self, gold: str, answer: str) -> str:
        raise AssertionError


NO_POOL = _NoPool()


@pytest.fixture(scope="module")
def pool() -> Iterator[GradingPool]:
    with GradingPool(size=2, cpu_seconds=1.0) as pool:
        yield pool


@pytest.mark.parametrize(
    "answer", ["12", " 12.", "+12", "$12$", r"\boxed{12}", r"$\boxed{12}$", "**12**", r"\(12\)"]
)
def test_integers_in_their_ornaments_are_right(answer: str) -> None:
    assert grade("12", answer, form="integer").correct


@pytest.mark.parametrize(
    "answer",
    [
        "5+7",
        "5+7=12",
        "12=12",
        "$1=2=12$",
        "x=12",
        "12.0",
        "24/2",
        "twelve",
        "",
        "-12",
        "1 2",
        "١٢",
        "12\n13",
        "12 13",
    ],
)
def test_what_is_no_integer_literal_is_wrong(answer: str) -> None:
    assert not grade("12", answer, form="integer").correct


@pytest.mark.parametrize("answer", ["9" * 101, "9" * 100_000, "(" * 150, "\ud800", "\x00" * 50])
def test_hostile_integers_cost_nothing(answer: str) -> None:
    assert not grade("9", answer, form="integer").correct


@given(st.integers(), st.integers())
def test_integers_compare_as_integers(gold: Any, answer: str) -> None:
    assert grade(str(gold), str(answer), form="integer").correct == (gold == answer)


@given(st.text(alphabet="0123456789+-=*/^!(){}\\ frac.,$", max_size=40))
def test_integer_form_decides_without_a_process(answer: str) -> None:
    verdict = grade("123456789123456789", answer, form="integer", pool=NO_POOL)
    assert verdict.correct == (unwrap(answer).lstrip("+").replace(",", "") == "123456789123456789")


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("1/3", r"\frac{1}{3}", True),
        ("0.5", "1/2", True),
        ("12", "12.0", True),
        ("(1, 2)", "(1,2)", True),
        ("(1, 2)", "(2,1)", False),
        ("1/3", "0.3333", False),
        ("1/3", "1/0", False),
        ("12", "5+7", False),
        ("12", "5+7=12", False),
        ("7", "$1=2=7$", False),
        ("2", r"\int_0^2 1 dx", False),
        ("1234.5", "1,234.5", True),
        ("1234", "1{,}234", True),
        ("-18", "−18", True),
        ("(1, 234)", "(1,234)", True),
        ("12", "24/2", False),
        ("12", r"\frac{24}{2}", False),
        ("12", "12/1", False),
        ("3/4", "6/8", False),
        ("(1/2, 1)", "(2/4, 1)", False),
        ("24/2", "24/2", True),
    ],
)
def test_numbers_compare_by_value(pool: GradingPool, gold: Any, answer: str, right: bool) -> None:
    assert grade(gold, answer, pool=pool).correct == right


def test_any_thread_may_grade(pool: GradingPool) -> None:
    verdicts = []
    threads = [
        threading.Thread(target=lambda: verdicts.append(grade("0.5", "1/2", pool=pool))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [verdict.correct for verdict in verdicts] == [True] * 5


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("12", "5+7"),
        ("12", "5 + 7"),
        ("12", "5+7=12"),
        ("12", r"3\cdot 4"),
        ("12", r"3 \times 4"),
        ("12", "3*4"),
        ("12", "(3)(4)"),
        ("12", "3(4)"),
        ("12", "24/2"),
        ("12", r"\frac{24}{2}"),
        ("12", r"\sqrt{144}"),
        ("8", "2^3"),
        ("7", "not $7$"),
        ("7", "$7$ or $8$"),
        ("7", r"7\text{ apples}"),
        ("7", "seven"),
        ("7", "|-7|"),
        ("7", "--7"),
        ("7", "-(-7)"),
        ("7", "7, 8"),
        ("7", r"\{7\}"),
        ("50", r"50\%"),
        ("2", r"\int_0^2 1 dx"),
        ("2", r"\int_{0}^{2} dx"),
        ("6", r"\binom{4}{2}"),
        ("6", "3!"),
        ("10", r"\sum_{k=1}^{4} k"),
        ("2", r"\log_{2} 4"),
        ("1", r"\sin{\frac{\pi}{2}}"),
        ("2", r"\lim_{x \to 2} x"),
        ("7x", "3x + 4x"),
        ("x^2+2x+1", "(x+1)^2"),
        ("(x+1)^2", "x^2+2x+1"),
        ("3+2i", "1+2+2i"),
        (r"\frac{7}{2}", r"\frac{3+4}{2}"),
        (r"\frac{7}{2}", r"\frac{14}{4}"),
        (r"\frac{7}{2}", r"2\frac{6}{4}"),
        (r"\frac{7}{2}", r"3\frac{1}{2}"),
        (r"\frac{\pi}{2}", r"\frac{2\pi}{4}"),
        (r"\frac{\pi}{2}", r"2\pi/4"),
        (r"\frac{3x}{2}", r"\frac{6x}{4}"),
        (r"2\sqrt{2}", r"\sqrt{8}"),
        (r"2\sqrt[3]{2}", r"\sqrt[3]{16}"),
        (r"\sqrt{2}", r"\sqrt{2}\sqrt{1}"),
        (r"\pi", "p"),
        ("", ""),
    ],
)
def test_what_is_not_worked_out_is_no_expression(gold: str, answer: str) -> None:
    assert grade(gold, answer, form="expression", pool=NO_POOL).reason in ("form", "different")


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("12", "12"),
        ("1234", "1,234"),
        ("1/2", "0.5"),
        ("0.5", r"\dfrac{1}{2}"),
        (r"2\sqrt{2}", r"$2 \sqrt2$"),
        (r"\frac{\pi}{2}", r"\boxed{\pi/2}"),
        (r"\frac{\pi}{2}", r"\frac{1}{2}\pi"),
        (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
        (r"-\frac{1}{2}x", r"\frac{-1}{2}x"),
        ("x^2+1", "1 + x^2"),
        ("1-x", "-x+1"),
        ("3+2i", "2i + 3"),
        ("(x+1)^2", "(1+x)^2"),
        ("[0,1)", r"\left[0, 1\right)"),
        (r"\binom{4}{2}", r"\binom{4}{2}"),
        (r"\sqrt{8}", r"2\sqrt{2}"),
    ],
)
def test_worked_out_expressions_compare_by_value(pool: GradingPool, gold: str, answer: str) -> None:
    assert grade(gold, answer, form="expression", pool=pool).correct


PIECES = [
    "\\frac",
    "\\sqrt",
    "\\dfrac{1}",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "^",
    "_",
    "/",
    "+",
    "-",
    ",",
    ".",
    " ",
]


@given(st.lists(st.sampled_from([*PIECES, "0", "1", "24", "x", "\\pi", "٣", "²", "9" * 99]), max_size=12))
def test_any_text_has_a_form_or_has_none(pieces: list[str]) -> None:
    answer = "".join(pieces)
    assert not is_worked_out(f"{answer}!", "12")
    assert is_worked_out(answer, answer)
    for gold in ("12", r"\frac{x}{2}+\sqrt{3}"):
        assert isinstance(is_worked_out(answer, gold), bool)


@pytest.mark.parametrize("answer", ["9^{9^{9^9}}", "10000000!", r"\sqrt{" * 60 + "2" + "}" * 60])
def test_hostile_expressions_are_killed_and_the_pool_goes_on(pool: GradingPool, answer: str) -> None:
    assert pool.verify("9", answer) != "equal"
    assert pool.verify(r"\sqrt{8}", r"2\sqrt{2}") == "equal"


def test_an_answer_that_fits_the_gold_ones_form_is_killed_too(pool: GradingPool) -> None:
    assert not grade("7^{7^{7^7}}", "9^{9^{9^9}}", form="expression", pool=pool).correct


def test_a_dead_worker_is_replaced(pool: GradingPool) -> None:
    assert grade("0.5", "1/2", pool=pool).correct
    for worker in pool._idle:
        process = worker._process
        assert process is not None
        process.kill()
        process.wait()
    assert grade("0.5", "1/2", pool=pool).correct


def test_a_worker_that_never_starts_is_the_graders_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with GradingPool(size=1) as broken, pytest.raises(GraderError, match="could not start a grading process"):
        grade("0.5", "1/2", pool=broken)
