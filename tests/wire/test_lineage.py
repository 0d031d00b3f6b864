"""Episodes along edges: of trees drawn by hand, and of random ones against the definition, word for word."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lineages import compacted, drawn, nested
from tests.trees import random_tree
from trieline.wire import lineage
from trieline.wire.errors import TreeError
from trieline.wire.lineage import find_episodes
from trieline.wire.tree import TrajectoryTree


def test_what_sub_agents_did_is_of_the_episode_that_used_it() -> None:
    tree = nested()
    assert tree.episodes() == [[0, 1, 2, 3], [4]]
    # The reward of the inner one counts once.
    assert tree.sequence_returns() == [1.125] * 4 + [0.25]


def test_a_sub_agent_of_a_window_that_was_compacted_later_is_of_the_whole_episode() -> None:
    tree = compacted()
    assert tree.episodes() == [[0, 2, 1, 3], [4]]
    assert tree.sequence_returns() == [2.5] * 4 + [0.5]


def test_a_broken_sub_agent_leaves_its_episode_as_it_is() -> None:
    tree = nested(broken=["TELL"])
    assert tree.scored_episodes() == [[0, 1, 2, 3], [4]]
    assert tree.scored_leaves() == [0, 2, 3, 4]
    assert tree.sequence_returns()[3] == 1.125


def test_what_led_to_a_broken_end_alone_does_not_count() -> None:
    tree = nested(broken=["END"])
    assert tree.scored_episodes() == [[4]]
    assert tree.scored_leaves() == [4]


def test_a_fork_after_an_answer_has_the_sub_agent_too_and_one_before_it_has_not() -> None:
    nodes = {
        "prompt": ("", 0.0),
        "CALL": ("prompt", 0.0),
        "task": ("prompt", 0.0),
        "TELL": ("task", 0.0),
        "result": ("CALL", 0.0),
        "END": ("result", 1.0),
        "AFTER": ("result", 2.0),
        "BEFORE": ("CALL", 4.0),
    }
    tree = drawn(nodes, leaves=["TELL", "END", "AFTER", "BEFORE"], edges=[("TELL", "result")])
    assert tree.episodes() == [[0, 1], [0, 2], [3]]
    assert tree.sequence_returns() == [1.5, 1.0, 2.0, 4.0]


def test_an_edge_from_an_inner_node_is_that_of_its_oldest_line() -> None:
    nodes = {
        "prompt": ("", 0.0),
        "CALL": ("prompt", 0.0),
        "task": ("prompt", 0.0),
        "TELL": ("task", 0.0),
        "result": ("CALL", 0.0),
        "more": ("TELL", 0.0),
        "AGAIN": ("more", 0.0),
        "END": ("result", 1.0),
        "else": ("TELL", 0.0),
        "FORK": ("else", 8.0),
    }
    # The sub-agent was asked again after its answer, in vain; a fork of that is a matter of its own.
    tree = drawn(nodes, leaves=["FORK", "AGAIN", "END"], edges=[("TELL", "result")])
    assert tree.episodes() == [[0], [1, 2]]
    # A leaf of its own is what a node belongs to before all others.
    tree = drawn(nodes, leaves=["FORK", "AGAIN", "END", "TELL"], edges=[("TELL", "result")])
    assert tree.episodes() == [[0], [1], [3, 2]]


def test_of_two_that_lead_to_each_other_the_last_is_the_end() -> None:
    nodes = {
        "prompt": ("", 0.0),
        "ASK": ("prompt", 0.0),
        "asked": ("prompt", 0.0),
        "TELL": ("asked", 0.0),
        "told": ("ASK", 0.0),
        "END": ("told", 1.0),
        "over": ("TELL", 0.0),
    }
    edges = [("ASK", "asked"), ("TELL", "told"), ("END", "over")]
    assert drawn(nodes, leaves=["END", "over"], edges=edges).episodes() == [[0, 1]]


def test_edges_to_and_from_branches_without_a_leaf_lead_nowhere() -> None:
    nodes = {
        "prompt": ("", 0.0),
        "TITLE": ("prompt", 0.0),
        "END": ("prompt", 1.0),
        "side": ("prompt", 0.0),
    }
    tree = drawn(nodes, leaves=["END"], edges=[("TITLE", "END"), ("END", "side")])
    assert tree.episodes() == [[0]]
    assert tree.scored_leaves() == [0]


def slow_episodes(tree: TrajectoryTree) -> list[set[int]]:
    """By looking at pairs of leaves."""
    paths = [set(tree.path(int(node))) for node in tree.leaf_nodes]
    nodes = tree.leaf_nodes.tolist()

    def owners(source: int) -> list[int]:
        at = [b for b, node in enumerate(nodes) if node == source]
        # Paths are lists of rising numbers: the least of those through a node takes its oldest children.
        through = [b for b in range(len(nodes)) if source in paths[b]]
        return at or sorted(through, key=lambda b: (sorted(paths[b]), b))[:1]

    leads = np.zeros((len(nodes), len(nodes)), np.bool_)
    for source, target in zip(tree.edge_sources.tolist(), tree.edge_targets.tolist(), strict=True):
        for b in owners(source):
            leads[b] |= [target in path for path in paths]
    out = [bool(row.any()) for row in leads]
    reaches = leads | np.eye(len(nodes), dtype=np.bool_)
    for _ in nodes:
        reaches = reaches @ reaches
    ends = [b for b in range(len(nodes)) if not out[b]]
    for b in sorted((b for b in range(len(nodes)) if out[b]), key=lambda b: (-nodes[b], b)):
        if not reaches[b][ends].any():
            ends.append(b)
    return [set(np.flatnonzero(reaches[:, end]).tolist()) | {-1 - end} for end in ends]


@given(seed=st.integers(0, 2**32 - 1))
def test_random_trees_against_the_definition(seed: int) -> None:
    tree = random_tree(np.random.default_rng(seed), vocab_size=20, max_nodes=12, later_columns=True)
    found = [{*leaves, -1 - leaves[-1]} for leaves in tree.episodes()]
    assert sorted(map(sorted, found)) == sorted(map(sorted, slow_episodes(tree)))


def test_a_thousand_windows_with_a_sub_agent_each() -> None:
    parents, leaf_nodes, edges = [-1], [], []
    for _ in range(1000):
        window, agent = len(parents), len(parents) + 1
        parents += [0, 0, window]
        leaf_nodes += [agent, window + 2]
        edges += [(agent, window + 2), (window + 2, window + 3)]
    (episode,) = find_episodes(parents, leaf_nodes, edges[:-1])
    assert episode == list(range(2000))


def test_trees_whose_episodes_are_too_many_to_go_through_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "MAX_VISITS", 10)
    with pytest.raises(TreeError, match="episodes of at most 10 nodes together, got more"):
        nested()
