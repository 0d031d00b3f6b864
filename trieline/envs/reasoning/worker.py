"""The program that makes puzzles and scores answers, with reasoning-gym in it."""

import ast
import contextlib
import importlib
import json
import math
import sys
from fractions import Fraction
from functools import lru_cache
from typing import Any

from trieline.envs.helper_program import bound_memory, serve
from trieline.envs.reasoning.guards import (
    BY_EQUALITY,
    BY_VALUE,
    LEFT_OUT,
    READ_AS_LITERALS,
    WITHOUT_CURRICULUM,
    may_be_scored,
)

TOLERANCE = 1e-3
"""Of probabilities, which are asked for as decimals."""
LATER_LEVELS = 20
"""Levels of a curriculum to look through for one that its own checks take."""


def main(cpu_seconds: float) -> None:
    """Answer `["tasks"]`, `["puzzle", task, level, seed]` and `["score", task, level, seed, answer]`."""
    bound_memory()
    from reasoning_gym.factory import DATASETS

    for name in READ_AS_LITERALS:
        # Before the built-in function of that name, for the functions of that module.
        vars(importlib.import_module(f"reasoning_gym.{name}"))["eval"] = ast.literal_eval

    def reply_to(request: Any) -> str:
        match request:
            case ["tasks"]:
                return json.dumps(sorted(set(DATASETS) - set(LEFT_OUT)))
            case ["puzzle", task, level, seed]:
                entry = _made(task, level, seed)[1]
                return json.dumps([entry["question"], entry["answer"]])
            case ["score", task, level, seed, answer]:
                dataset, entry = _made(task, level, seed)
                return json.dumps(_score(dataset, entry, task, answer))
        raise ValueError(request)

    serve(reply_to, cpu_seconds)


@lru_cache(maxsize=64)
def _made(task: str, level: int, seed: int) -> tuple[Any, Any]:
    from reasoning_gym.factory import DATASETS

    kind, config_of = DATASETS[task]
    for lower in range(level, 0, -1):
        # The last levels of some curricula ask for more than their data has.
        with contextlib.suppress(AssertionError, ValueError, IndexError):
            dataset = kind(config=_config(task, lower, seed) or config_of(seed=seed, size=1))
            return dataset, dataset[0]
    dataset = kind(config=_config(task, 0, seed) or config_of(seed=seed, size=1))
    return dataset, dataset[0]


def _config(task: str, level: int, seed: int) -> Any:
    """Of this level of the task's curriculum, or of the next one that is sound; None without a curriculum."""
    from reasoning_gym.coaching.base_curriculum import DefaultCurriculumContext, RangeAttributeMode
    from reasoning_gym.factory import CURRICULA, create_curriculum

    if task not in CURRICULA or task in WITHOUT_CURRICULUM:
        return None
    problem: Exception | None = None
    # All levels up to this one; where the lowest of all is not sound, this one and later ones.
    for mode in (RangeAttributeMode.INCLUSIVE, RangeAttributeMode.UPPER_BOUND):
        for later in range(LATER_LEVELS):
            curriculum = create_curriculum(task)
            curriculum.set_global_level(level + later)
            try:
                config = curriculum.generate_configuration(
                    {"seed": seed, "size": 1}, DefaultCurriculumContext(mode=mode)
                )
                getattr(config, "validate", lambda: None)()
            except (AssertionError, ValueError) as error:
                problem = error
                continue
            return config
    assert problem is not None
    raise problem


def _score(dataset: Any, entry: Any, task: str, answer: str) -> float:
    if not may_be_scored(task, answer):
        return 0.0
    if task in BY_EQUALITY:
        return float(answer.strip() == entry["answer"])
    if task in BY_VALUE:
        return float(math.isclose(_value(answer), _value(entry["answer"]), abs_tol=TOLERANCE))
    try:
        return float(dataset.score_answer(answer, entry))
    except (Exception, RecursionError):  # noqa: BLE001  # what its scorers do with odd answers
        return 0.0


def _value(text: str) -> float:
    """Of a decimal or a fraction; not a number for anything else."""
    try:
        return float(Fraction(text.strip()))
    except (ValueError, ZeroDivisionError, OverflowError):
        return math.nan


if __name__ == "__main__":
    main(float(sys.argv[1]))
