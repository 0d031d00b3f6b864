from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trieline.envs.question.answers import (
    Form,
    form_of,
    gold_answer,
    judged,
    last_boxed,
    normalised,
    read_answer,
)


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("She has 48/2 = <<48/2=24>>24 left.\n#### 1,024", "1,024"),
        ("so it is $\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
        ("first \\boxed{1}, then \\boxed{\\sqrt{2}}", "\\sqrt{2}"),
        ("\\boxed{\\text{Tuesday}}", "Tuesday"),
        ("  42. ", "42"),
        ("#### -3", "-3"),
    ],
)
def test_the_gold_answer_within_a_solution(text: str, gold: str) -> None:
    assert gold_answer(text) == gold


@pytest.mark.parametrize(
    ("gold", "form"),
    [
        ("12", "number"),
        ("1,200", "number"),
        ("0.5", "number"),
        ("3/4", "number"),
        ("\\frac{3}{4}", "number"),
        ("3\\sqrt{5}", "expression"),
        ("x^2+1", "expression"),
        ("2x", "expression"),
        ("Jupiter", "text"),
        ("Na", "text"),
        ("the 3rd of May", "text"),
    ],
)
def test_the_form_of_a_gold_answer(gold: str, form: str) -> None:
    assert form_of(gold) == form


@pytest.mark.parametrize(
    ("reply", "form", "answer"),
    [
        ("#### 72", "number", "72"),
        ("It is 3 and 4.\n#### $1,072.50", "number", "1,072.50"),
        ("The answer is 18 dollars.", "number", "18"),
        ("**Final answer:** 7", "number", "7"),
        ("Answer: x is 7\nand 9 besides", "number", "7"),
        ("48/2=24, and 48+24=72", "number", "72"),
        ("I get \\boxed{\\dfrac{3}{4}} of it, 5 times", "number", "\\frac{3}{4}"),
        ("nothing", "number", ""),
        ("\\boxed{5", "number", ""),
        ("So (B) is right, not (C), since A bat flies: B.", "choice", "B"),
        ("The answer is (C) and not D", "choice", "C"),
        ("\\boxed{\\text{D}}", "choice", "D"),
        ("I think it is bats", "choice", "I"),
        ("Let me see.\nThe answer is: the planet Jupiter.", "text", "the planet Jupiter"),
        ("A guess:\nJupiter", "text", "Jupiter"),
        ("", "text", ""),
        ("so \\boxed{3\\sqrt{5}}", "expression", "3\\sqrt{5}"),
        ("first line\n$3\\sqrt{5}$", "expression", "3\\sqrt{5}"),
    ],
)
def test_the_answer_of_a_reply(reply: str, form: Form, answer: str) -> None:
    assert read_answer(reply, form) == answer


@pytest.mark.parametrize(
    ("gold", "answer", "form", "right"),
    [
        ("5", "5.00", "number", True),
        ("5", "5+0", "number", False),
        ("1,200", "1200", "number", True),
        ("0.5", "1/2", "number", True),
        ("3\\sqrt{5}", "3\\sqrt5", "expression", True),
        ("3\\sqrt{5}", "\\sqrt{45}", "expression", False),
        ("12", "\\binom{12}{1}", "expression", False),
        ("Jupiter", "the JUPITER!", "text", True),
        ("Jupiter", "Mars", "text", False),
        ("Jupiter", "", "text", False),
        ("B", "B", "choice", True),
        ("B", "", "choice", False),
    ],
)
def test_an_answer_is_judged_by_value_behind_a_guard(gold: str, answer: str, form: Form, right: bool) -> None:
    assert judged([gold], answer, form).correct is right


RIGHT_AND_WRONG = {
    "3": (
        ["\\boxed{3}", "\\boxed{3 cm}", "\\boxed{$3}", "The answer is 3 dollars.", "1 + 2 = 3", "#### 3.0"],
        [
            "\\boxed{2\\sqrt{3}}",
            "\\boxed{x^{3}}",
            "\\boxed{\\frac{\\pi}{3}}",
            "\\boxed{-{3}}",
            "\\boxed{1 or 2 or 3}",
            "\\boxed{3!}",
            "The answer is 3+4",
            "The answer is 3^2",
        ],
    ),
    "7": (["The answer is 3+4=7", "\\boxed{7^\\circ}", "**Answer:** $7$", "Answer: 7%"], ["\\boxed{3+4}"]),
    "-5": (["\\boxed{-\\$5}", "#### -5", "−5"], ["\\boxed{5}", "5"]),
    "5": (["The answer is 5, since 2 + 3 = 5 and not 6"], ["\\boxed{-\\$5}", "The answer is 6, not 5"]),
    "\\frac{1}{2}": (
        [
            "\\boxed{\\frac12}",
            "**Answer:** $\\frac{1}{2}$",
            "**Final answer:** 1/2",
            "The answer is 1/2 of them",
            "so 1/2",
            "0.5",
        ],
        ["\\boxed{\\frac{2}{4}}", "2", "1 or 2"],
    ),
    "(1, 2)": (["\\boxed{\\left(1, 2\\right)}", "\\boxed{(1,2)}"], ["\\boxed{(2, 1)}", "2"]),
    "1,072": (["#### 1072", "#### $1,072.00"], ["1,0722", "72"]),
}


@pytest.mark.parametrize("gold", RIGHT_AND_WRONG)
def test_numbers_as_models_write_them(gold: str) -> None:
    right, wrong = RIGHT_AND_WRONG[gold]
    verdicts = {r: judged([gold], read_answer(r, "number"), "number").correct for r in (*right, *wrong)}
    assert verdicts == {**dict.fromkeys(right, True), **dict.fromkeys(wrong, False)}


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("A", "!!!", False),
        ("A", "The", False),
        ("A", "(a)", True),
        ("\\text{(A)}", "!", False),
        ("The The", "the the.", True),
        ("?", "?", True),
        ("?", "!", False),
        ("?", "", False),
    ],
)
def test_a_text_of_articles_and_signs_is_no_joker(gold: str, answer: str, right: bool) -> None:
    assert judged([gold_answer(gold)], answer, "text").correct is right


def test_an_expression_behind_a_mark_loses_its_stars() -> None:
    assert read_answer("**Answer:** $x^2$", "expression") == "x^2"


def test_any_of_several_gold_answers_is_right() -> None:
    assert judged(["Mary Shelley", "Shelley"], "shelley", "text").correct
    assert judged(["4", "5"], "5", "number").correct


def test_a_text_is_compared_as_squad_compares_it() -> None:
    assert normalised("The  U.S.A., a country") == "usa country"


@settings(max_examples=200)
@given(st.text(max_size=300), st.sampled_from(["integer", "number", "expression", "text", "choice"]))
def test_any_reply_has_an_answer_or_none(reply: str, form: Form) -> None:
    assert isinstance(read_answer(reply, form), str)
    assert last_boxed(reply) is None or "\\" in reply


def test_long_replies_cost_little() -> None:
    for reply in ("\\boxed{" * 50_000, "answer is " * 50_000, "{" * 200_000, "1," * 100_000):
        for form in get_args(Form):
            read_answer(reply, form)
