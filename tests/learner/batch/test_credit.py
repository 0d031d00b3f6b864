"""Credit along edges, by hand: what windows and sub-agents get of the episode that used them."""

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from tests.lineages import compacted, drawn, nested
from trieline.learner.batch.batch import prepare_batch
from trieline.learner.batch.groups import teaches, trained_groups
from trieline.learner.batch.sequences import LEADS_ON, TERMINATED, scored_sequences
from trieline.learner.batch.states import trie_episodes
from trieline.learner.batch.trie import build_trie
from trieline.learner.batch.vtrace import VTraceReturns, vtrace_on_trie
from trieline.learner.intake.tree_metrics import batch_metrics
from trieline.learner.objective_config import ObjectiveConfig
from trieline.wire.tree import TrajectoryTree


def advantages(tree: TrajectoryTree, how: Any, **settings: Any) -> dict[int, set[float]]:
    """The different ones of each leaf."""
    config = ObjectiveConfig(advantage=how, skip_zero_std=False, **settings)
    (group,), _ = trained_groups(scored_sequences([tree]), config)
    by_leaf = zip(group.sequences, group.advantages, strict=True)
    return {s.leaf: {round(float(a), 6) for a in own} for s, own in by_leaf}


def weights(trees: list[TrajectoryTree], norm: Any) -> dict[tuple[int, int], float]:
    """What all sampled tokens of each sequence weigh together, by tree and leaf."""
    config = ObjectiveConfig(norm=norm, skip_zero_std=False)
    groups, _ = trained_groups(scored_sequences(trees), config)
    batch = prepare_batch(trees, config, max_tokens=10_000)
    columns = np.concatenate([pack.weights for pack in batch.packs])
    ends = np.cumsum([s.num_trained for group in groups for s in group.sequences])
    shares = [float(part.sum()) for part in np.split(columns, ends[:-1])]
    keys = [(s.tree, s.leaf) for group in groups for s in group.sequences]
    return dict(zip(keys, shares, strict=True))


def on_policy(tree: TrajectoryTree, values: Any, *, gamma: float = 1.0, lam: float = 1.0) -> VTraceReturns:
    """V-trace of a tree of one token a node, whose state n then is that of node n; all ratios are 1."""
    (sequences,) = scored_sequences([tree])
    episodes = trie_episodes(build_trie([s.token_ids for s in sequences]), sequences)
    assert episodes.num_states == tree.num_nodes
    logprobs = tree.behavior_logprobs.astype(np.float64)
    return vtrace_on_trie(episodes, values, logprobs, gamma=gamma, lam=lam, rho_bar=1.0, c_bar=1.0)


@pytest.mark.parametrize("how", ["group", "tree"])
def test_sub_agents_get_the_advantage_of_the_episode_that_used_them(how: str) -> None:
    # Two episodes of 1.125 and 0.25: `group` compares each with the other, `tree` with the mean.
    difference = 1.125 - 0.25 if how == "group" else (1.125 - 0.25) / 2
    expected = {b: {difference if b < 4 else -difference} for b in range(5)}
    assert advantages(nested(), how) == expected


@pytest.mark.parametrize("how", ["group", "tree"])
def test_windows_and_the_sub_agents_in_them_too(how: str) -> None:
    difference = 2.5 - 0.5 if how == "group" else (2.5 - 0.5) / 2
    assert advantages(compacted(), how) == {b: {difference if b < 4 else -difference} for b in range(5)}


@pytest.mark.parametrize("how", ["group", "tree"])
def test_a_broken_sub_agent_is_left_out_and_its_episode_is_not(how: str) -> None:
    difference = 1.125 - 0.25 if how == "group" else (1.125 - 0.25) / 2
    expected = {0: {difference}, 2: {difference}, 3: {difference}, 4: {-difference}}
    assert advantages(nested(broken=["TELL"]), how) == expected


def forked() -> TrajectoryTree:
    """A sub-agent's answer after which the rollout was forked, and a rollout without any."""
    nodes = {
        "prompt": ("", 0.0),
        "CALL": ("prompt", 0.0),
        "task": ("prompt", 0.0),
        "TELL": ("task", 0.0),
        "result": ("CALL", 0.0),
        "END": ("result", 1.0),
        "FORK": ("result", 0.5),
        "OTHER": ("prompt", 0.25),
    }
    return drawn(nodes, leaves=["TELL", "END", "FORK", "OTHER"], edges=[("TELL", "result")])


def test_a_sub_agent_of_several_episodes_stands_for_their_mean() -> None:
    # Against the mean of the others, none of which is an episode of its own.
    assert advantages(forked(), "group") == {
        0: {0.75 - 0.25},
        1: {1.0 - 0.375},
        2: {0.5 - 0.625},
        3: {0.25 - 0.75},
    }
    # At the prompt three episodes part into the two that asked and the one that did not; at the result these.
    mean = round(1.75 / 3, 6)
    rounded = advantages(forked(), "tree")
    assert {b: {round(a, 5) for a in own} for b, own in rounded.items()} == {
        0: {round(0.75 - mean, 5)},
        1: {round(0.75 - mean, 5), 0.25},
        2: {round(0.75 - mean, 5), -0.25},
        3: {round(0.25 - mean, 5)},
    }


def test_sub_agents_that_are_compared_among_themselves_count_by_episodes() -> None:
    """The main line in group 0, sub-agents in group 1: three of one episode, one of another."""
    nodes = {"prompt": ("", 0.0)}
    edges, leaves = [], []
    for rollout, (count, earned) in enumerate([(3, 1.0), (1, 0.0), (0, 0.5)]):
        nodes[f"CALL{rollout}"] = ("prompt", 0.0)
        for agent in range(count):
            nodes[f"task{rollout}{agent}"] = ("prompt", 0.0)
            nodes[f"TELL{rollout}{agent}"] = (f"task{rollout}{agent}", 0.0)
            edges.append((f"TELL{rollout}{agent}", f"result{rollout}"))
            leaves.append(f"TELL{rollout}{agent}")
        nodes[f"result{rollout}"] = (f"CALL{rollout}", 0.0)
        nodes[f"END{rollout}"] = (f"result{rollout}", earned)
        leaves.append(f"END{rollout}")
    groups = np.array([name.startswith("TELL") for name in leaves], np.int32)
    tree = replace(drawn(nodes, leaves=leaves, edges=edges), leaf_groups=groups)
    found = advantages(tree, "group")
    assert [found[leaf] for leaf in range(7)] == [{1.0}, {1.0}, {1.0}, {0.75}, {-1.0}, {-0.75}, {0.0}]


def test_an_episode_weighs_the_same_however_many_sequences_it_has() -> None:
    trees = [nested(), compacted()]
    by_rollout = weights(trees, "rollout")
    for tree in (0, 1):
        assert sum(by_rollout[tree, leaf] for leaf in range(4)) == pytest.approx(1 / 4)
        assert by_rollout[tree, 4] == pytest.approx(1 / 4)
    # By token: 7 and 6 sampled nodes, each once, though the third window begins with what is in the second.
    by_token = weights(trees, "token")
    assert by_token[0, 3] == by_token[1, 1] == pytest.approx(2 / 13)
    assert by_token[1, 3] == by_token[1, 4] == by_token[1, 0] == pytest.approx(1 / 13)
    by_tree = weights(trees, "tree")
    assert sum(by_tree[0, leaf] for leaf in range(5)) == pytest.approx(1 / 2)


@pytest.mark.parametrize("to_replies", [False, True])
def test_a_summary_bootstraps_from_the_window_and_a_sub_agent_from_the_state_after_its_answer(
    to_replies: bool,
) -> None:
    """With gamma and lam of 1, ratios of 1: vs is the rest of the return, along the edges."""
    tree = compacted(tokens=1, to_replies=to_replies)
    values = np.linspace(-1, 1, tree.num_tokens)
    found = on_policy(tree, values)
    prompt, first, w2, _, task, tell, result, second, w3, end, other = range(11)
    assert found.vs[[w2, result, w3]].tolist() == pytest.approx([2.0, 2.0, 2.0])
    assert found.vs[task] == pytest.approx(0.5 + 2.0)
    # Two rollouts begin at the prompt: windows are not among what may follow it.
    assert found.vs[prompt] == pytest.approx((2.0 + 0.5) / 2)
    got = [found.pg_advantages[LEADS_ON, token] for token in (first, tell, second)]
    assert got == pytest.approx([2.0 - values[prompt], 0.5 + 2.0 - values[task], 2.0 - values[result]])
    got = [found.pg_advantages[TERMINATED, token] for token in (end, other)]
    assert got == pytest.approx([2.0 - values[w3], 0.5 - values[prompt]])
    # With lam = 0 a target looks one action ahead: V of the state that the edge leads to.
    short = on_policy(tree, values, gamma=0.5, lam=0.0)
    assert short.vs[task] == pytest.approx(0.5 + 0.5 * values[result])
    assert short.vs[result] == pytest.approx(0.5 * values[w3])
    assert short.vs[prompt] == pytest.approx((0.5 * values[w2] + 0.5) / 2)


def test_a_sub_agent_that_answers_twice_has_the_mean_of_both() -> None:
    nodes = {
        "prompt": ("", 0.0),
        "CALL": ("prompt", 0.0),
        "ALSO": ("prompt", 0.0),
        "task": ("prompt", 0.0),
        "TELL": ("task", 0.0),
        "result": ("CALL", 0.0),
        "END": ("result", 1.0),
        "answer": ("ALSO", 0.0),
        "CLOSE": ("answer", 0.25),
    }
    edges = [("TELL", "result"), ("TELL", "answer")]
    tree = drawn(nodes, leaves=["TELL", "END", "CLOSE"], edges=edges, tokens=1)
    values = np.linspace(-1, 1, tree.num_tokens)
    assert on_policy(tree, values).vs[3] == pytest.approx(0.625)
    assert on_policy(tree, values, lam=0.0).vs[3] == pytest.approx((values[5] + values[7]) / 2)


def test_an_edge_to_a_reply_says_what_came_of_that_reply() -> None:
    """Two rollouts have the same result in their context, and go on from it differently."""
    nodes = {
        "prompt": ("", 0.0),
        "CALL": ("prompt", 0.0),
        "result": ("CALL", 0.0),
        "OTHER": ("result", 0.0),
        "task": ("prompt", 0.0),
        "TELL": ("task", 0.0),
        "END": ("result", 1.0),
    }
    tree = drawn(nodes, leaves=["OTHER", "TELL", "END"], edges=[("TELL", "END")], tokens=1)
    values = np.linspace(-1, 1, tree.num_tokens)
    found = on_policy(tree, values)
    assert found.vs[2] == pytest.approx(0.5)
    assert found.vs[4] == pytest.approx(1.0)
    assert on_policy(tree, values, lam=0.0).vs[4] == pytest.approx(values[2])


def test_a_main_line_carries_its_prompt_though_others_said_its_sub_agents_task_before() -> None:
    nodes = {"prompt": ("", 0.0), "task": ("prompt", 0.0)}
    for i in range(2):
        nodes |= {f"CALL{i}": ("prompt", 0.0), f"TELL{i}": ("task", 0.0), f"END{i}": (f"CALL{i}", float(i))}
    edges = [("TELL0", "END0"), ("TELL1", "END1")]
    (sequences,) = scored_sequences([drawn(nodes, leaves=["TELL0", "END0", "TELL1", "END1"], edges=edges)])
    assert [s.own_from for s in sequences] == [2, 0, 2, 0]


def test_episodes_and_their_rewards_are_counted_once() -> None:
    tree = nested()
    metrics = batch_metrics([tree], policy_version=0)
    assert metrics["reward/mean"] == pytest.approx((1.125 + 0.25) / 2)
    # Sampled nodes of two tokens each: six of the first episode, one of the other.
    assert metrics["completions/mean_length"] == pytest.approx((12 + 2) / 2)


@pytest.mark.parametrize("how", ["group", "tree", "vtrace"])
def test_branches_without_a_leaf_are_trained_by_nobody(how: Any) -> None:
    nodes = {
        "prompt": ("", 0.0),
        "TITLE": ("prompt", 0.0),
        "CALL": ("prompt", 0.0),
        "side": ("CALL", 0.0),
        "SUGGEST": ("side", 0.0),
        "END": ("CALL", 1.0),
        "OTHER": ("prompt", 0.0),
    }
    tree = drawn(nodes, leaves=["END", "OTHER"], edges=[("TITLE", "END"), ("SUGGEST", "END")])
    config = ObjectiveConfig(advantage=how, loss="vtrace_pg")
    assert teaches(tree, config)
    (pack,) = prepare_batch([tree], config, max_tokens=100).packs
    assert pack.trie.num_tokens == 2 * 4
    assert len(pack.weights) == 2 * 3


def test_a_thousand_sub_agents_and_a_thousand_windows() -> None:
    nodes, edges, leaves = {"prompt": ("", 0.0), "w0": ("prompt", 0.0)}, [], []
    for i in range(500):
        nodes |= {f"task{i}": ("prompt", 0.0), f"TELL{i}": (f"task{i}", 0.0), f"END{i}": (f"w{i}", 1.0)}
        nodes[f"w{i + 1}"] = ("prompt", 0.0)
        edges += [(f"TELL{i}", f"END{i}"), (f"END{i}", f"w{i + 1}")]
        leaves += [f"TELL{i}", f"END{i}"]
    tree = drawn(nodes, leaves=[*leaves, "w500"], edges=edges, tokens=1)
    (sequences,) = scored_sequences([tree])
    assert {s.sequence_return for s in sequences} == {500.0}
    found = on_policy(tree, np.zeros(tree.num_tokens))
    assert found.vs[list(nodes).index("task0")] == pytest.approx(500.0)
