"""The towers keep their rules, and the fewest moves are those of the theory."""

import itertools
from typing import Any

import pytest

from trieline.envs.game.hanoi import MOST_DISKS, POSITIONS, Hanoi


@pytest.mark.parametrize("disks", range(1, MOST_DISKS + 1))
def test_a_full_tower_takes_all_its_moves(disks: int) -> None:
    env = Hanoi()
    state = POSITIONS.index((0,) * disks)
    assert env.made.ways[state] == 2**disks - 1
    env.reset(options={"task_id": f"{2**disks - 1}:{state}"})
    seen = [_disks(env)]
    for move in env.demonstrate():
        reward = env.step(f"Move {move}.")[1]
        seen.append(_disks(env))
    assert reward == 1.0
    assert seen[-1] == (2,) * disks
    assert all(sum(a != b for a, b in zip(*pair, strict=True)) == 1 for pair in itertools.pairwise(seen))


def _disks(env: Any) -> tuple[int, ...]:
    return POSITIONS[int(env.world.s)]


def test_what_is_against_the_rules_changes_nothing() -> None:
    env = Hanoi()
    text, _ = env.reset(options={"task_id": f"9:{POSITIONS.index((1, 0, 0))}"})
    assert text == (
        "A: 3 2. B: 1. C: empty. Bring all disks to C. The last of a peg is its top; none may lie on a "
        "smaller one.\nReply with one move: A to B, A to C, B to A, B to C, C to A or C to B."
    )
    assert env.step("A to B")[0] == text
    assert env.step("C to A")[0] == text
    assert env.step("up")[0] == f"That names no move. {text}"
    assert env.step("A -> C")[0].startswith("A: 3. B: 1. C: 2.")
    assert env.step("from A to peg b")[0].startswith("A: 3. B: 1. C: 2.")
    assert env.moves_left == 4


def test_repeating_the_question_never_scores() -> None:
    env = Hanoi()
    for seed in range(30):
        text, _ = env.reset(seed=seed)
        while not (last := env.step(text))[2]:
            pass
        assert last[1] == 0.0
