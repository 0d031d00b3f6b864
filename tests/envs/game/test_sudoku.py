"""Grids have one solution, cells are asked for in a sensible order, and a wrong digit counts."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trieline.envs.errors import TaskError
from trieline.envs.game.sudoku import LEVELS, Sudoku, read_answer
from trieline.envs.game.sudoku_grid import draw_full, is_consistent, solutions, with_blanks

TASK = "1.43/3421/2314/4132"


@given(st.integers(0, 2**32), st.sampled_from([4, 9]))
@settings(max_examples=30, deadline=None)
def test_full_grids_keep_the_rules(seed: int, size: int) -> None:
    full = draw_full(size, np.random.default_rng(seed))
    assert is_consistent(full, size)
    assert 0 not in full


@pytest.mark.parametrize(("size", "blanks"), [(4, 16), (9, 50)])
def test_blanks_leave_one_solution(size: int, blanks: int) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        full = draw_full(size, rng)
        grid = with_blanks(full, size, blanks, rng)
        assert [*solutions(grid, size)] == [full]
        assert grid.count(0) > blanks // 2


@pytest.mark.parametrize("level", range(len(LEVELS)))
def test_levels_have_their_blanks(level: int) -> None:
    for split in ("train", "test"):
        env: Any = Sudoku(level=level, split=split)
        for seed in range(3):
            env.reset(seed=seed)
            assert env.task.grid.count(0) == LEVELS[level].blanks
            assert env.parse_task(env.task_id(env.task)) == env.task


def test_a_game() -> None:
    env = Sudoku()
    text, _ = env.reset(options={"task_id": TASK})
    assert text == (
        "Every row, column and 2 x 2 box has each digit from 1 to 4 once.\n"
        "1 ? 4 3\n3 4 2 1\n2 3 1 4\n4 1 3 2\n"
        'Choose the digit for ?, from 1 to 4. Reply with only the digit, like "1".'
    )
    assert env.step("It is 3.")[:3] == (f"That is wrong. {text}", 0.0, False)
    last = env.step("It is **2**.")
    assert (last[:3], last[4]["score"]) == (
        ("Solved.", 1.0, True),
        {"filled": 1, "left": 0, "mistakes_left": 0},
    )


def test_a_second_mistake_ends_the_episode() -> None:
    env = Sudoku()
    text, _ = env.reset(options={"task_id": TASK})
    assert env.step(text)[0] == f"Reply with one digit. {text}"
    assert env.step("2 or 3")[:3] == ("Reply with one digit.", 0.0, True)
    env = Sudoku(mistakes=0)
    env.reset(options={"task_id": TASK})
    assert env.step("4")[1:3] == (0.0, True)


def test_a_whole_grid_is_an_answer() -> None:
    env = Sudoku(level=5)
    env.reset(seed=3)
    assert env.step(f"This is it:\n{env.solution()}\nDone, 9 rows.")[1] == 1.0
    env.reset(seed=3)
    wrong = env.solution().translate(str.maketrans("12", "21"))
    assert env.step(wrong)[0].startswith("That is wrong.")


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("3", 3),
        ("Row 1 lacks it, so\n3, that is 3.\n", 3),
        ("30", None),
        ("3.5", None),
        ("5", None),
        ("1 or 2", None),
        ("", None),
        ("\n", None),
        ("٣", None),
        ("1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1", (1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 1)),
        ("1 2 3 4\n3 4 1 2\n2 1 4 3", None),
    ],
)
def test_what_is_read(reply: str, answer: Any) -> None:
    assert read_answer(reply, 4) == answer


@pytest.mark.parametrize(
    "task_id",
    ["", "1234", TASK.replace(".", "2"), TASK.replace(".", "1"), f"{TASK}\n", "/".join(["...."] * 4),
     "1.../2.../3.../....",
     "/".join(["." * 9] * 9), "15.3/..../..../...."],
)  # fmt: skip
def test_grids_without_one_solution_are_refused(task_id: str) -> None:
    with pytest.raises(TaskError):
        Sudoku().reset(options={"task_id": task_id})
