"""OpenSpiel's games with all their seats: PettingZoo's interface, chance by seed, who loses by no move."""

import random
import warnings
from typing import Any

import pytest
from pettingzoo.test import api_test

from tests.envs.missing_package import said_without
from tests.envs.players.wrapped import Boxed
from trieline.envs import make_env
from trieline.envs.errors import EnvError, TaskError
from trieline.envs.game.spiel_game import SpielGame
from trieline.envs.players.spiel_table import SpielTable

ENV = "trieline/OpenSpiel-v0"
GAMES = ("tic_tac_toe", "leduc_poker", "kuhn_poker(players=3)", "backgammon")


def played(table: SpielTable, seed: int, reply: Any) -> list[tuple[str, str, float]]:
    """(agent, what it heard, reward) of a whole game; `reply` makes a reply of (agent, moves)."""
    table.reset(seed=seed)
    lines = []
    for agent in table.agent_iter():
        text, reward, over, _, info = table.last()
        lines.append((agent, text, reward))
        table.step(None if over else reply(agent, info["moves"]))
    return lines


@pytest.mark.parametrize("game", GAMES)
def test_pettingzoo_takes_it(game: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it wants arrays
        api_test(Boxed(SpielTable(SpielGame(game))), num_cycles=100)


@pytest.mark.parametrize("game", GAMES)
def test_the_seed_decides_all_chance(game: str) -> None:
    def any_move(draw: random.Random) -> Any:
        return lambda agent, moves: draw.choice(moves)

    table = SpielTable(SpielGame(game))
    games = [played(table, seed, any_move(random.Random(0))) for seed in (1, 1, 2, 3, 4)]
    assert games[0] == games[1]
    if game != "tic_tac_toe":
        assert any(other != games[0] for other in games[2:])


def test_a_game_as_its_seats_hear_it() -> None:
    moves = {
        "player_1": iter(["x(0,0)", "nonsense", "x(0,1)", "x(0,2)"]),
        "player_2": iter(["o(1,1)", "o(2,2)"]),
    }
    lines = played(SpielTable(SpielGame("tic_tac_toe")), 0, lambda agent, _: next(moves[agent]))
    asked = "You are player 2 of 2. Choose one move: o(0,1), o(0,2), o(1,0), o(1,1)"
    assert lines[1][1].startswith(f"Player 1 plays x(0,0).\nx..\n...\n...\n{asked}")
    assert lines[2][1].startswith("Player 2 plays o(1,1).\nx..\n.o.\n...\nYou are player 1 of 2.")
    assert lines[3][1].startswith("Name exactly one of the moves.\nx..\n.o.\n...\nYou are player 1 of 2.")
    assert [(agent, text, reward) for agent, text, reward in lines[-2:]] == [
        ("player_1", "The game is over: you won.", 1.0),
        ("player_2", "Player 1 plays x(0,2).\nThe game is over: you lost.", 0.0),
    ]


@pytest.mark.parametrize(
    ("game", "others"), [("tic_tac_toe", 1.0), ("kuhn_poker(players=3)", 0.5), ("hanabi", 0.0)]
)
def test_who_names_no_move_loses(game: str, others: float) -> None:
    try:
        table = SpielTable(SpielGame(game), mistakes=1)
    except TaskError:
        pytest.skip(f"this build of OpenSpiel has no {game}")
    lines = played(table, 0, lambda agent, moves: "no idea")
    loser = lines[0][0]
    rewards = {agent: reward for agent, _, reward in lines[2:]}
    assert rewards == {agent: 0.0 if agent == loser else others for agent in table.possible_agents}


def test_only_a_task_of_self_has_a_table() -> None:
    env: Any = make_env(ENV, opponents=["random", "self"]).unwrapped
    env.reset(seed=3)
    assert env.table() is None
    _, info = env.reset(seed=3, options={"level": 1})
    assert info["task_id"].startswith("tic_tac_toe()/self/")
    first, second = env.table(), env.table()
    assert first.last() == second.last()
    first.step("x(0,0)")
    assert first.last() != second.last()


def test_without_the_package_the_extra_is_named() -> None:
    said = said_without("pettingzoo", ENV, opponent="self")
    assert said == "EnvError opponent 'self' needs the package pettingzoo: pip install trieline[players]\n"


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"opponents": []}, "expected 1 to 16 opponents"),
        ({"opponents": ["self"], "opponent": "random"}, "expected 1 to 16 opponents"),
        ({"opponents": ["self", "mcts"]}, "expected each of opponents to be one of"),
        ({"opponents": ["mcts0"]}, "expected simulations in"),
        ({"opponents": ["self", "mcts20"], "game": "leduc_poker"}, "would look into the agent's hand"),
        ({"opponent": "self", "game": "2048"}, "is played alone"),
        ({"opponent": "self", "opening": -1}, "expected an opening of 0 to"),
        ({"expert": "self"}, "expected expert to be one of"),
        ({"question": "Your move?"}, "expected a prompt with {seen} in it"),
    ],
)
def test_what_can_not_be_played_is_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(EnvError, match=message):
        make_env(ENV, **kwargs)


def test_an_expert_is_offered_where_one_is_named() -> None:
    assert not hasattr(make_env(ENV).unwrapped, "demonstrate")
    env: Any = make_env(ENV, opponents=["random"], expert="mcts200").unwrapped
    rewards = []
    for seed in range(10):
        env.reset(seed=seed)
        for action in env.demonstrate():
            _, reward, over, _, _ = env.step(action)
        assert over
        rewards.append(reward)
    assert sum(rewards) > 8
    assert env.fork().demonstrate.__self__ is not env


def test_a_question_of_ones_own() -> None:
    env: Any = make_env(ENV, question="{seen}\n{moves}", opponent="first").unwrapped
    text, _ = env.reset(options={"task_id": "tic_tac_toe()/first/1/0"})
    assert text == "x..\n...\n...\no(0,1), o(0,2), o(1,0), o(1,1), o(1,2), o(2,0), o(2,1), o(2,2)"


@pytest.mark.parametrize("game", ["tic_tac_toe", "leduc_poker"])
def test_an_opening_is_random_and_of_the_seed(game: str) -> None:
    env: Any = make_env(ENV, game=game, opponents=["self"], opening=6).unwrapped
    starts: dict[str, set[str]] = {}
    for seed in range(40):
        _, info = env.reset(options={"task_id": f"{env.name}/self/0/{seed % 20}"})
        text, reward, over, _, _ = env.table().last()
        assert not over
        assert reward == 0
        starts.setdefault(info["task_id"], set()).add(text)
    assert {len(texts) for texts in starts.values()} == {1}
    assert len({text for texts in starts.values() for text in texts}) > 10
    # Whom the environment plays, it plays from the start.
    text, _ = env.reset(options={"task_id": f"{env.name}/first/0/3"})
    plain: Any = make_env(ENV, game=game, opponents=["first"]).unwrapped
    assert text == plain.reset(options={"task_id": f"{env.name}/first/0/3"})[0]
