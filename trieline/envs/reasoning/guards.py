"""What an answer may look like before a scorer of reasoning-gym sees it.

Some scorers of reasoning-gym 0.1.25 hand the answer to `eval`, which is taken from them, or to sympy's
parser, which is `eval` as well: what it may see is a language of its own here, without names but those of
functions and single letters, without brackets, quotes, attributes and assignments. Some scorers reward
answers that say nothing. This module loads nothing of the library.
"""

import re

LONGEST_ANSWER = 20_000
LEFT_OUT = {
    "codeio": "the same seed gives another puzzle",
    "list_functions": "the same seed gives another puzzle",
    "composite": "it is made of other tasks, which are here themselves",
    "sokoban": "a puzzle takes a quarter of a minute to make",
}
"""Tasks that are not played, and why."""
BY_EQUALITY = frozenset({"game_of_life_halting"})
"""Tasks whose scorers take a wrong answer for a right one: only the gold answer is right."""
BY_VALUE = frozenset({"coin_flip"})
"""And tasks whose answers are numbers that their scorers confuse: the value decides."""
WITHOUT_CURRICULUM = frozenset({"knight_swap"})
"""Tasks of which no level of the curriculum makes a puzzle: their one default is every level."""

READ_AS_LITERALS = (
    "algorithmic.string_insertion",
    "algorithmic.spiral_matrix",
    "algorithmic.number_sorting",
    "algorithmic.binary_matrix",
    "games.n_queens",
)
"""Modules below `reasoning_gym` that hand answers to `eval`. They get `ast.literal_eval` by that name."""

# sympy parses it, as an arithmetic expression or one of calculus.
_ARITHMETIC = frozenset({"puzzle24", "countdown"})
_ALGEBRA = frozenset({"simple_integration", "intermediate_integration", "polynomial_multiplication"})
_TEXT_OF_ARITHMETIC = re.compile(r"(?:[0-9]{1,9}|[-+*/() \t\n](?!\*\*))*", re.ASCII)
_FUNCTIONS = "sin|cos|tan|sec|csc|cot|sinh|cosh|tanh|asin|acos|atan|exp|log|ln|sqrt|Abs|pi|E|C"
_TEXT_OF_ALGEBRA = re.compile(
    rf"(?:\b(?:{_FUNCTIONS})\b|\b[a-zA-Z]\b|[0-9]{{1,9}}(?:\.[0-9]{{1,9}})?(?:[a-zA-Z]\b)?|[-+*/^() \t\n])*",
    re.ASCII,
)
_FINITE_COMPLEX = re.compile(r"[0-9.+\-ijeE() \t]*", re.ASCII)


def may_be_scored(task: str, answer: str) -> bool:
    """Whether a scorer may see the answer. One that it may not see is wrong."""
    if not answer.strip() or len(answer) > LONGEST_ANSWER:
        return False
    if task in _ARITHMETIC:
        return len(answer) <= 200 and "**" not in answer and _TEXT_OF_ARITHMETIC.fullmatch(answer) is not None
    if task in _ALGEBRA:
        return len(answer) <= 4000 and _TEXT_OF_ALGEBRA.fullmatch(answer) is not None
    if task == "complex_arithmetic":
        # Not a number is near to every number for its scorer.
        return _FINITE_COMPLEX.fullmatch(answer) is not None
    return True
