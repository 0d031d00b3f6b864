"""Games in which the policy plays every seat: one tree, a sequence a seat, secrets stay where they are."""

import re
from typing import Any

import numpy as np
import pytest

from tests.actors.fake_tables import TABLED
from tests.actors.scripted_policy import ScriptedPolicy
from tests.actors.test_rollout_group import play, texts
from trieline.actors.chat import ChatRenderer
from trieline.wire.config import EnvConfig, EpisodeConfig
from trieline.wire.messages import Sampling
from trieline.wire.tree import TrajectoryTree

SPIEL = "trieline/OpenSpiel-v0"


def names_of(prompt: str) -> list[str]:
    asked = re.findall(r"Choose one move: (.*)\. Reply", prompt)
    return str(asked[-1]).split(", ")


def any_move(prompt: str, sampling: Sampling) -> str:
    names = names_of(prompt)
    return names[sampling.seed % len(names)]


def spiel(game: str, *, level: int = 0, group_size: int = 4, renderer: ChatRenderer, **asked: Any) -> Any:
    env = EnvConfig(id=SPIEL, kwargs={"game": game, "opponents": ["self", "random"]})
    policy = ScriptedPolicy(renderer, any_move)
    return play(policy, renderer, env, group_size=group_size, level=level, **asked), policy


def sequence(tree: TrajectoryTree, renderer: ChatRenderer, leaf: int) -> str:
    return renderer.decode(tree.token_ids[tree.sequence_index(leaf)])


def words(*spoken: str) -> Any:
    """Says `spoken` in the order of the table, whichever seat is asked."""
    return lambda prompt, sampling: spoken[
        len(re.findall(r"<\|im_start\|>user\n(.*)", prompt)[-1].split()) - 1
    ]


@pytest.mark.parametrize(
    ("game", "seats"), [("tic_tac_toe", 2), ("leduc_poker", 2), ("kuhn_poker(players=3)", 3)]
)
def test_each_seat_of_each_game_is_a_sequence(game: str, seats: int, renderer: ChatRenderer) -> None:
    tree, policy = spiel(game, renderer=renderer)
    games = [range(start, start + seats) for start in range(0, tree.num_leaves, seats)]
    assert tree.leaf_groups.tolist() == [*range(seats)] * 4
    assert tree.leaf_terminated.all()
    for leaves in games:
        # What one gets the others don't; three at Kuhn's table can win twice what they can lose.
        assert sum(tree.sequence_return(leaf) for leaf in leaves) == pytest.approx(1)
        for leaf in leaves:
            assert tree.sampled[tree.leaf_nodes[leaf]]
            assert f"You are player {leaf % seats + 1} of {seats}." in sequence(tree, renderer, leaf)
    # What was sampled is in the tree once, after the very tokens that the policy was asked with.
    paths = [tree.token_ids[tree.sequence_index(leaf)] for leaf in range(tree.num_leaves)]
    for prompt in policy.prompts:
        assert any(np.array_equal(path[: len(prompt)], prompt) for path in paths)
    assert len(policy.prompts) == tree.sampled.sum()
    assert "token_mismatch" not in tree.fork_causes


def test_prompts_of_a_seat_branch_where_they_first_differ(renderer: ChatRenderer) -> None:
    tree, _ = spiel("tic_tac_toe", group_size=6, renderer=renderer)
    prompts = {tuple(tree.path(int(leaf)))[:2] for leaf in tree.leaf_nodes[::2]}
    assert len(prompts) == 1  # the first seat begins alike in all games
    for first in range(1, tree.num_nodes):
        for second in range(1, first):
            if tree.parents[first] == tree.parents[second] and not (
                tree.sampled[first] or tree.sampled[second]
            ):
                starts = tree.node_offsets[[first, second]]
                assert tree.token_ids[starts[0]] != tree.token_ids[starts[1]]


@pytest.mark.parametrize("game", ["leduc_poker", "kuhn_poker", "liars_dice(dice_sides=5,numdice=1)"])
def test_nothing_of_a_secret_is_in_the_tokens_of_the_others(game: str, renderer: ChatRenderer) -> None:
    """Whatever one seat holds, what the other is told is the same."""
    pyspiel = pytest.importorskip("pyspiel")
    from trieline.envs.game.spiel_game import SpielGame
    from trieline.envs.players.spiel_table import SpielTable

    table = SpielTable(SpielGame(game))
    told: dict[tuple[int, str], set[str]] = {}
    held: dict[tuple[int, str], set[str]] = {}
    for seed in range(120):
        table.reset(seed=seed)
        rules = pyspiel.load_game(game)
        while table.agents:
            agent = table.agent_selection
            text, _, over, _, info = table.last()
            seat = table.seats[agent]
            state = table._state
            if not over:
                known = state.information_state_string(seat)
                other = state.information_state_string(1 - seat)
                told.setdefault((seat, known), set()).add(str(renderer.prompt_tokens(text).tolist()))
                held.setdefault((seat, known), set()).add(other)
            table.step(None if over else info["moves"][seed % len(info["moves"])])
    # One text for all that a seat knows, whatever the other holds; and the other held different things.
    assert {len(texts_of) for texts_of in told.values()} == {1}
    assert max(len(others) for others in held.values()) > 1
    assert rules.num_players() == 2


def test_a_poker_hand_stays_with_its_seat(renderer: ChatRenderer) -> None:
    tree, _ = spiel("leduc_poker", group_size=8, renderer=renderer)
    hands = [{*re.findall(r"\[Private: (\d)\]", sequence(tree, renderer, leaf))} for leaf in range(16)]
    seats = [{*re.findall(r"\[Observer: (\d)\]", sequence(tree, renderer, leaf))} for leaf in range(16)]
    assert seats == [{"0"}, {"1"}] * 8
    # The same deal in all games of the task, another card at each seat.
    assert [*hands] == [hands[0], hands[1]] * 8
    assert len(hands[0]) == len(hands[1]) == 1
    assert hands[0] != hands[1]


def test_other_opponents_are_played_by_the_environment(renderer: ChatRenderer) -> None:
    tree, _ = spiel("tic_tac_toe", level=1, renderer=renderer)
    assert tree.num_leaves == 4
    assert tree.leaf_groups.tolist() == []
    assert tree.task_id.startswith("tic_tac_toe()/random/")


def test_rewards_stand_on_the_reply_before_them(renderer: ChatRenderer) -> None:
    policy = ScriptedPolicy(renderer, words("a", "bb", "ccc", "end"))
    tree = play(policy, renderer, EnvConfig(id=TABLED), group_size=1, level=0)
    assert [texts(tree, renderer, leaf)[-1].strip() for leaf in range(2)] == ["ccc", "end"]
    # north: 1 - 2, then 3 - 3; south, who lost 1 before its first word: 2 - 3, then 3.
    assert [tree.rewards[tree.path(leaf)[-3]] for leaf in tree.leaf_nodes.tolist()] == [-1, -2]
    assert tree.rewards[tree.leaf_nodes].tolist() == [0, 3]


def test_a_seat_that_never_moves_has_no_sequence(renderer: ChatRenderer) -> None:
    tree = play(ScriptedPolicy(renderer, words("end")), renderer, EnvConfig(id=TABLED), group_size=2, level=0)
    assert tree.leaf_groups.tolist() == []
    assert tree.rewards[tree.leaf_nodes].tolist() == [3, 3]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("step", "step raised RuntimeError: the table fell over"),
        ("last", "expected 5 values of last"),
        ("turn", "nobody"),
    ],
)
def test_a_broken_game_is_broken_for_all_its_seats(fault: str, reason: str, renderer: ChatRenderer) -> None:
    policy = ScriptedPolicy(renderer, words("a", "bb", "ccc", "end"))
    env = EnvConfig(id=TABLED, kwargs={"fault": fault, "at": 3})
    tree = play(policy, renderer, env, group_size=2, level=0)
    assert tree.leaf_causes == ("environment",) * 4
    assert tree.leaf_groups.tolist() == [0, 1, 0, 1]
    assert not tree.leaf_terminated.any()
    assert reason in tree.info["broken"]


def test_a_policy_that_fails_one_seat_breaks_the_game(renderer: ChatRenderer) -> None:
    def script(prompt: str, sampling: Sampling) -> str:
        if "south" in prompt:
            raise TimeoutError
        return "a"

    tree = play(ScriptedPolicy(renderer, script), renderer, EnvConfig(id=TABLED), group_size=1, level=0)
    assert set(tree.leaf_causes) == {"policy_server"}
    assert tree.num_leaves == 2


def test_a_table_that_can_not_be_made_is_broken(renderer: ChatRenderer) -> None:
    policy = ScriptedPolicy(renderer, words("end"))
    tree = play(policy, renderer, EnvConfig(id=TABLED, kwargs={"fault": "table"}), group_size=2, level=0)
    assert tree.leaf_causes == ("environment",) * 2
    assert "no table" in tree.info["broken"]


def test_a_limit_cuts_the_game_for_all_seats(renderer: ChatRenderer) -> None:
    policy = ScriptedPolicy(renderer, lambda prompt, sampling: "a")
    env = EnvConfig(id=TABLED, episode=EpisodeConfig(max_turns=2))
    tree = play(policy, renderer, env, group_size=1, level=0)
    assert tree.leaf_causes == ("", "")
    assert not tree.leaf_terminated.any()
    # The second reply of the first seat has an answer: the second one of the other.
    assert tree.sampled.sum() == 4


def test_forks_are_further_games(renderer: ChatRenderer) -> None:
    tree, _ = spiel("tic_tac_toe", renderer=renderer, group_size=2, branching="random", branches=1)
    assert tree.leaf_groups.tolist() == [0, 1] * 3
    assert "branch" in tree.fork_causes


def versus_earlier(renderer: ChatRenderer, earlier: ScriptedPolicy | None, seed: int = 11) -> TrajectoryTree:
    env = EnvConfig(id=SPIEL, kwargs={"game": "tic_tac_toe", "opponents": ["earlier"]})
    policy = ScriptedPolicy(renderer, any_move)
    return play(policy, renderer, env, group_size=3, level=0, asked={"seed": seed}, earlier=earlier)


def test_an_earlier_version_plays_the_other_seats(renderer: ChatRenderer) -> None:
    seats = set()
    for seed in range(6):
        earlier = ScriptedPolicy(renderer, lambda prompt, sampling: names_of(prompt)[0])
        tree = versus_earlier(renderer, earlier, seed)
        seat = int(tree.task_id.split("/")[2])
        seats.add(seat)
        assert tree.leaf_groups.tolist() == [seat] * 3 * seat
        assert tree.num_leaves == 3
        assert tree.leaf_terminated.all()
        for leaf in range(3):
            mark, other = "xo"[seat], "xo"[1 - seat]
            said = texts(tree, renderer, leaf)
            # Its own marks in replies, those of the other in what it was told.
            assert re.findall(rf"^{mark}\(", said[-1])
            told = re.findall(rf"plays ({other}\(\d,\d\))", "".join(said))
            assert len(told) >= len(said) // 2 - 1
        assert earlier.prompts
    assert seats == {0, 1}


def test_an_earlier_version_that_no_server_has_breaks_the_game(renderer: ChatRenderer) -> None:
    tree = versus_earlier(renderer, None)
    assert set(tree.leaf_causes) == {"environment"}
    assert "actor.earlier_policy names no server" in tree.info["broken"]


def test_an_earlier_version_that_fails_breaks_the_game(renderer: ChatRenderer) -> None:
    def fails(prompt: str, sampling: Sampling) -> str:
        raise TimeoutError

    for seed in range(4):
        tree = versus_earlier(renderer, ScriptedPolicy(renderer, fails), seed)
        assert set(tree.leaf_causes) == {"policy_server"}
        assert tree.num_leaves == 3


def test_an_earlier_version_that_loses_before_the_policys_turn_leaves_a_broken_game(
    renderer: ChatRenderer,
) -> None:
    def script(prompt: str, sampling: Sampling) -> str:
        return "no move" if sampling.seed % 2 else names_of(prompt)[0]

    for seed in range(6):
        env = EnvConfig(id=SPIEL, kwargs={"game": "tic_tac_toe", "opponents": ["earlier"], "mistakes": 0})
        policy, earlier = ScriptedPolicy(renderer, any_move), ScriptedPolicy(renderer, script)
        tree = play(policy, renderer, env, group_size=4, level=0, asked={"seed": seed}, earlier=earlier)
        assert tree.num_leaves == 4
        assert set(tree.comparison_groups.tolist()) == {int(tree.task_id.split("/")[2])}
