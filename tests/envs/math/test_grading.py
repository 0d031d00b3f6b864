"""Answers are literals, graded by value; whatever else comes is wrong, and soon."""

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trieline.envs.errors import GraderError
from trieline.envs.math.grading import grade, unwrap
from trieline.envs.math.grading_process import GradingPool


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


@pytest.mark.parametrize("answer", ["9^{9^{9^9}}", "10000000!", r"\sqrt{" * 60 + "2" + "}" * 60])
def test_hostile_expressions_are_killed_and_the_pool_goes_on(pool: GradingPool, answer: str) -> None:
    assert not grade("9", answer, form="expression", pool=pool).correct
    assert grade(r"\sqrt{8}", r"2\sqrt{2}", form="expression", pool=pool).correct


def test_relations_are_no_expressions(pool: GradingPool) -> None:
    assert not grade("12", "5+7=12", form="expression", pool=pool).correct


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


class _NoPool(GradingPool):
    def verify(self, gold: str, answer: str) -> str:
        raise AssertionError


NO_POOL = _NoPool()
