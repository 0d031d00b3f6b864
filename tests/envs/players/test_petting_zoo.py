"""Games that somebody wrote for PettingZoo, with discrete actions or in text, for one seat or for all."""

import random
import warnings
from typing import Any

import pytest
from pettingzoo.test import api_test

from tests.actors.scripted_policy import ScriptedPolicy
from tests.actors.test_rollout_group import play
from tests.actors.test_table_player import any_move, sequence
from tests.envs.missing_package import said_without
from tests.envs.players import nim
from tests.envs.players.wrapped import Boxed
from trieline.actors.chat import ChatRenderer
from trieline.envs import make_env
from trieline.envs.check import run_apart
from trieline.envs.contract import CHECKS, Subject
from trieline.envs.errors import EnvError, TaskError
from trieline.envs.players.worded_table import WordedTable
from trieline.wire.config import EnvConfig

ENV = "trieline/PettingZoo-v0"
NIM = "tests.envs.players.nim:"
WORDED: dict[str, Any] = {"env": f"{NIM}Nim", "tell": f"{NIM}tell", "name": f"{NIM}name"}


def made(**kwargs: Any) -> Any:
    return make_env(ENV, **kwargs).unwrapped


@pytest.mark.parametrize("mistakes", [0, 2])
def test_pettingzoo_takes_worded_games(mistakes: int) -> None:
    table = WordedTable(nim.Nim(), tell=nim.tell, name=nim.name, mistakes=mistakes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it wants arrays
        api_test(Boxed(table), num_cycles=50)
        api_test(Boxed(nim.SpokenNim()), num_cycles=50)


@pytest.mark.parametrize("name", CHECKS)
def test_one_seat_keeps_the_contract(name: str) -> None:
    kwargs = {**WORDED, "opponents": ["random", f"{NIM}wise", "self"]}
    result = run_apart(name, lambda: CHECKS[name](Subject(ENV, kwargs, patience_s=0.5)), 240.0)
    assert result.passed, result.detail


def test_what_a_seat_is_told() -> None:
    env = made(**WORDED, opponents=["first"])
    text, _ = env.reset(options={"task_id": "first/1/0"})
    ask = (
        'You are second_1. Choose one move: take 1, take 2, take 3. Reply with only the move, like "take 1".'
    )
    assert text == f"8 are left.\n{ask}"
    assert env.step("Let me take 2 or take 3.")[0] == f"Name exactly one of the moves.\n{text}"
    text, reward, over, _, _ = env.step("take 3")
    assert (text.partition("\n")[0], reward, over) == ("4 are left.", 0.0, False)
    assert env.step("take 3")[:3] == ("0 are left.", -1.0, True)


def test_who_names_no_move_loses_one() -> None:
    env = made(**WORDED, opponents=["first"], mistakes=1)
    env.reset(options={"task_id": "first/0/0"})
    env.step("?")
    assert env.step("?")[1:3] == (-1.0, True)


def test_a_script_plays_the_other_seat() -> None:
    won = {}
    for opponent in ("random", f"{NIM}wise"):
        env = made(**WORDED, opponents=[opponent])
        draw, total = random.Random(0), 0.0
        for seed in range(80):
            text, _ = env.reset(seed=seed)
            over = False
            while not over:
                moves = text.split("one move: ")[1].split(".")[0].split(", ")
                text, reward, over, _, _ = env.step(draw.choice(moves))
            total += float(reward)
        won[opponent] = total
    assert won[f"{NIM}wise"] < won["random"] - 40


@pytest.mark.parametrize("kind", ["Nim", "SpokenNim"])
def test_the_policy_plays_every_seat(kind: str, renderer: ChatRenderer) -> None:
    spoken = kind == "SpokenNim"
    env = EnvConfig(id=ENV, kwargs={"env": f"{NIM}{kind}"} if spoken else WORDED)
    script = (lambda prompt, sampling: str(sampling.seed % 3 + 1)) if spoken else any_move
    tree = play(ScriptedPolicy(renderer, script), renderer, env, group_size=4, level=0)
    assert tree.task_id.startswith("self/")
    assert tree.leaf_groups.tolist() == [0, 1] * 4
    assert tree.leaf_terminated.all()
    returns = [tree.sequence_return(leaf) for leaf in range(8)]
    assert [a + b for a, b in zip(returns[::2], returns[1::2], strict=True)] == [0] * 4
    for leaf in range(8):
        assert ("second_1" if leaf % 2 else "first_0") in sequence(tree, renderer, leaf)


def test_without_the_package_the_extra_is_named() -> None:
    said = said_without("pettingzoo", ENV, env=f"{NIM}Nim")
    assert (
        said
        == "EnvError trieline/PettingZoo-v0 needs the package pettingzoo: pip install trieline[players]\n"
    )


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"env": "nothing.here:made"}, "expected env as module:function"),
        ({"env": f"{NIM}Nothing"}, "expected env as module:function"),
        ({"env": f"{NIM}tell", "settings": {"observation": {"observation": [1]}, "agent": "a"}}, "got str"),
        ({"env": f"{NIM}Nim", "settings": {"most": 5, "least": 2}}, "least"),
        ({**WORDED, "opponents": ["mcts"]}, "expected opponents out of"),
        ({"env": f"{NIM}SpokenNim", "tell": f"{NIM}tell"}, "speaks for itself"),
    ],
)
def test_what_is_no_game_is_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(EnvError, match=message):
        made(**kwargs)


def test_what_can_not_be_told_or_guessed_is_named() -> None:
    with pytest.raises(EnvError, match="or a function `tell`"):
        made(env=f"{NIM}Nim").reset(seed=0)
    with pytest.raises(EnvError, match="needs to know the legal moves"):
        made(env=f"{NIM}SpokenNim", opponents=["random"]).reset(options={"task_id": "random/1/0"})


@pytest.mark.parametrize(
    "task_id", ["", "self/0", "self/2/0", "self/0/2147483648", "random/0/0", "self/00/1"]
)
def test_games_that_are_none_are_refused(task_id: str) -> None:
    with pytest.raises(TaskError):
        made(**WORDED).reset(options={"task_id": task_id})
