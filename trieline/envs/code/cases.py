"""The hidden tests of a function of ours: inputs at edges and at random, and what the right one returns."""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from trieline.envs.code import examples
from trieline.envs.code.hidden_tests import Case, make_case
from trieline.envs.code.templates import Constant
from trieline.envs.errors import TaskError

RANDOM_CASES = 8
"""Hidden tests of a task besides those at the edges."""
CASE_DRAWS = 50
"""Sets of inputs to try until the right answer is not the same for all of them."""


def make_cases(
    right: Callable[..., Any], params: Mapping[str, str], constants: Mapping[str, Constant], seed_text: str
) -> tuple[Case, ...]:
    """The hidden tests of `right`: the same ones for a seed text for ever. Not all expect the same value.

    `params` are its names and kinds, as `examples` has them.
    """
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(seed_text.encode()).digest()[:8], "big"))
    edges = _defined(right, examples.edge_calls(params, constants))
    for _ in range(CASE_DRAWS):
        drawn = [
            tuple(examples.draw(kind, constants, rng) for kind in params.values())
            for _ in range(RANDOM_CASES)
        ]
        cases = (*edges, *_defined(right, drawn))
        if any(case.expected != cases[0].expected for case in cases):
            return cases
    msg = f"{seed_text}: the right answer is the same for all inputs in {CASE_DRAWS} draws of {RANDOM_CASES}"
    raise TaskError(msg)


def _defined(right: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> list[Case]:
    """Cases of those calls for which there is a right value: the largest number of none is not asked for."""
    cases = []
    for arguments in calls:
        with contextlib.suppress(ValueError, IndexError, ZeroDivisionError):
            cases.append(make_case(arguments, right(*arguments)))
    return cases
