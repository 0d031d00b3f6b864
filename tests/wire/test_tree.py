from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.trees import long_tree, random_tree
from trieline.common.arrays import Float32, Int32
from trieline.wire import tree as tree_module
from trieline.wire.errors import TreeError
from trieline.wire.tree import TrajectoryTree


def two_rollouts() -> TrajectoryTree:
    """The example of the record's own docstring."""
    return TrajectoryTree(
        env_id="test/Two-v0",
        task_id="t",
        parents=np.array([-1, 0, 0], np.int32),
        node_offsets=np.array([0, 3, 5, 8], np.int32),
        sampled=np.array([False, True, True]),
        rewards=np.array([0, 0, 1], np.float32),
        fork_causes=("", "rollout", "rollout"),
        token_ids=np.array([5, 6, 7, 1, 2, 1, 9, 2], np.int32),
        behavior_logprobs=np.array([0, 0, 0, -1, -2, -1, -3, 0], np.float32),
        entropies=np.array([0, 0, 0, 1, 1, 1, 1, 0], np.float32),
        policy_versions=np.array([-1, -1, -1, 4, 4, 4, 5, 5], np.int32),
        leaf_nodes=np.array([1, 2], np.int32),
        leaf_terminated=np.array([True, True]),
        leaf_causes=("", ""),
    )


def test_sequences_of_the_example() -> None:
    tree = two_rollouts()
    tree.validate(vocab_size=10)
    assert (tree.num_nodes, tree.num_tokens, tree.num_leaves) == (3, 8, 2)
    assert tree.token_ids[tree.sequence_index(0)].tolist() == [5, 6, 7, 1, 2]
    assert tree.token_ids[tree.sequence_index(1)].tolist() == [5, 6, 7, 1, 9, 2]
    assert [tree.sequence_return(leaf) for leaf in range(2)] == [0.0, 1.0]
    assert tree.path(2) == [0, 2]
    assert tree.sequence_index(1).dtype == np.int32


def windows(*, fork: bool = False, causes: tuple[str, ...] = ("", "", "", "")) -> TrajectoryTree:
    """An episode of three context windows (leaves 0, 1 and 2), and one of a single one (leaf 3).

    The end of leaf 0 returns to leaf 3, too.

    With `fork`, the last window has a fork: leaf 3 leaves it at node 4 then.
    """
    #       prompt  window 0  context, window 1  context, window 2  the other one
    parents = [-1, 0, 0, 2, 0, 4, 4 if fork else 0]
    return TrajectoryTree(
        env_id="test/Windows-v0",
        task_id="t",
        parents=np.array(parents, np.int32),
        node_offsets=np.arange(8, dtype=np.int32),
        sampled=np.array([False, True, False, True, False, True, True]),
        rewards=np.array([8, 1, 0, 0.5, 0, 0.25, 4], np.float32),
        fork_causes=("", "", "compaction", "", "compaction", "", "rollout"),
        token_ids=np.arange(7, dtype=np.int32),
        behavior_logprobs=np.array([0, -1, 0, -1, 0, -1, -1], np.float32),
        entropies=np.array([0, 1, 0, 1, 0, 1, 1], np.float32),
        policy_versions=np.array([-1, 0, -1, 0, -1, 0, 0], np.int32),
        leaf_nodes=np.array([1, 3, 5, 6], np.int32),
        leaf_terminated=np.array([False, False, True, True]),
        leaf_causes=causes,
        edge_sources=np.array([1, 3, 1], np.int32),
        edge_targets=np.array([2, 4, 6], np.int32),
        edge_kinds=("continues", "continues", "returns"),
    )


def test_windows_are_one_episode_and_have_its_return() -> None:
    tree = windows()
    tree.validate()
    assert tree.episodes() == [[0, 1, 2], [0, 3]]
    other = 8 + 1 + 4.0
    assert tree.sequence_returns() == [(9.75 + other) / 2, 9.75, 9.75, other]
    assert tree.sequence_return(3) == other


def test_windows_that_were_forked_later_belong_to_several_episodes() -> None:
    tree = windows(fork=True)
    assert tree.episodes() == [[0, 1, 2], [0, 1, 3]]
    whole, other = 8 + 1 + 0.5 + 0.25, 8 + 1 + 0.5 + 4
    assert [tree.sequence_return(leaf) for leaf in range(4)] == [(whole + other) / 2] * 2 + [whole, other]
    # What is broken has no return.
    broken = windows(fork=True, causes=("", "", "", "sandbox"))
    assert [broken.sequence_return(leaf) for leaf in range(3)] == [whole] * 3


def test_trees_without_edges_have_an_episode_for_each_leaf() -> None:
    assert two_rollouts().episodes() == [[0], [1]]


@given(seed=st.integers(0, 2**32 - 1))
def test_every_leaf_is_in_an_episode_whatever_the_edges_say(seed: int) -> None:
    tree = random_tree(np.random.default_rng(seed), vocab_size=20, later_columns=True)
    episodes = tree.episodes()
    assert {leaf for leaves in episodes for leaf in leaves} == set(range(tree.num_leaves))
    ends = [leaves[-1] for leaves in episodes]
    assert len(set(ends)) == len(ends)
    assert all(len(set(leaves)) == len(leaves) for leaves in episodes)


@given(seed=st.integers(0, 2**32 - 1), later_columns=st.booleans())
def test_random_trees_are_valid_and_their_paths_begin_at_the_root(seed: int, later_columns: bool) -> None:
    tree = random_tree(np.random.default_rng(seed), vocab_size=20, later_columns=later_columns)
    tree.validate(vocab_size=20)
    for leaf, node in enumerate(tree.leaf_nodes):
        path = tree.path(int(node))
        assert path[0] == 0
        assert path == sorted(path)
        index = tree.sequence_index(leaf)
        assert len(index) == sum(int(tree.node_offsets[n + 1] - tree.node_offsets[n]) for n in path)
        assert (np.diff(index) > 0).all()
        assert (tree.policy_versions[index] >= 0).any()
    assert tree.num_sequence_tokens == sum(len(tree.sequence_index(b)) for b in range(tree.num_leaves))


def test_scored_leaves_leave_out_broken_ones() -> None:
    tree = replace(two_rollouts(), leaf_causes=("sandbox", ""))
    tree.validate()
    assert list(tree.scored_leaves()) == [1]


def test_a_long_tree_is_valid() -> None:
    tree = long_tree(np.random.default_rng(0), num_tokens=1003)
    tree.validate(vocab_size=49_152)
    assert tree.num_tokens == 1003


def int32(*values: int) -> Int32:
    return np.array(values, np.int32)


def float32(*values: float) -> Float32:
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"parents": int32(), "node_offsets": int32(0)}, "at least one node"),
        ({"leaf_nodes": int32(), "leaf_terminated": np.array([], np.bool_), "leaf_causes": ()}, "one leaf"),
        ({"parents": int32(0, 0, 0)}, "parents"),
        ({"parents": int32(-1, -1, 0)}, "parents"),
        ({"parents": int32(-1, 1, 0)}, "parents"),
        ({"parents": int32(-1, 2, 0)}, "parents"),
        ({"parents": np.array([-1, 0, 0], np.int64)}, r"expected parents as int32\[3\], got int64\[3\]"),
        ({"parents": np.array([[-1, 0, 0]], np.int32)}, "parents"),
        ({"sampled": np.array([0, 1, 1], np.uint8)}, "sampled"),
        ({"rewards": float32(0, 1)}, r"expected rewards as float32\[3\], got float32\[2\]"),
        ({"node_offsets": int32(0, 3, 5)}, "node_offsets"),
        ({"node_offsets": int32(1, 3, 5, 8)}, "node_offsets"),
        ({"node_offsets": int32(0, 3, 5, 7)}, "node_offsets"),
        ({"node_offsets": int32(0, 3, 3, 8)}, "node_offsets"),
        ({"node_offsets": int32(0, 5, 3, 8)}, "node_offsets"),
        # Rises only in the wrapping arithmetic of int32.
        ({"node_offsets": int32(0, 2**31 - 1, -2, 8)}, "node_offsets"),
        ({"leaf_nodes": int32(1, 3)}, "leaf_nodes"),
        ({"leaf_nodes": int32(1, -1)}, "leaf_nodes"),
        ({"leaf_terminated": np.array([True])}, "leaf_terminated"),
        ({"leaf_causes": ("",)}, "expected 2 leaf_causes, got 1"),
        ({"leaf_causes": ("", "bored")}, "bored"),
        ({"fork_causes": ("", "rollout")}, "expected 3 fork_causes, got 2"),
        ({"fork_causes": ("", "rollout", "why")}, "why"),
        ({"rewards": float32(0, 0, np.nan)}, "finite rewards"),
        ({"entropies": float32(0, 0, 0, np.inf, 1, 1, 1, 0)}, "finite entropies"),
        ({"entropies": float32(0, 0, 0, -1, 1, 1, 1, 0)}, r"entropies in \[-0.0001, inf\]"),
        ({"behavior_logprobs": float32(0, 0, 0, -np.inf, -2, -1, -3, 0)}, "finite behavior_logprobs"),
        (
            {"behavior_logprobs": float32(0, 0, 0, 0.1, -2, -1, -3, 0)},
            r"behavior_logprobs in \[-inf, 0.0001\]",
        ),
        ({"token_ids": int32(5, 6, 7, 1, 2, 1, 10, 2)}, r"token_ids in \[0, 10\)"),
        ({"token_ids": int32(5, 6, 7, 1, 2, 1, -1, 2)}, "token_ids"),
        ({"policy_versions": int32(-1, -1, -1, 4, -1, 4, 5, 5)}, "policy_versions"),
        ({"policy_versions": int32(-1, 0, -1, 4, 4, 4, 5, 5)}, "policy_versions"),
    ],
)
def test_validate_names_the_broken_invariant(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(TreeError, match=complaint):
        replace(two_rollouts(), **change).validate(vocab_size=10)


def with_later_columns(**change: Any) -> TrajectoryTree:
    """Two roles; the second's reply was drawn from [1..9], then from 9 alone, and led back to the first's."""
    columns: dict[str, Any] = {
        "leaf_groups": int32(0, 1),
        "mask_index": int32(-1, -1, -1, -1, -1, 0, 1, -1),
        "mask_offsets": int32(0, 1, 2),
        "mask_runs": int32(1, 10, 9, 10),
        "edge_sources": int32(1),
        "edge_targets": int32(2),
        "edge_kinds": ("returns",),
    }
    return replace(two_rollouts(), **(columns | change))


def test_later_columns_have_defaults_that_say_nothing() -> None:
    tree = two_rollouts()
    assert tree.comparison_groups.tolist() == [0, 0]
    assert tree.num_masks == 0
    assert not np.isnan(tree.entropies).any()
    assert tree.edge_kinds == ()


def test_later_columns_of_the_example() -> None:
    tree = with_later_columns(entropies=float32(0, 0, 0, 1, 1, np.nan, 1, 0))
    tree.validate(vocab_size=10)
    assert tree.comparison_groups.tolist() == [0, 1]
    assert [tree.mask(m).tolist() for m in range(tree.num_masks)] == [[1, 10], [9, 10]]
    assert tree.token_nodes.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"leaf_groups": int32(0)}, r"expected leaf_groups as int32\[2\], got int32\[1\]"),
        ({"leaf_groups": np.zeros(2, np.int64)}, "leaf_groups"),
        ({"entropies": float32(np.nan, 0, 0, 1, 1, 1, 1, 0)}, "finite entropies"),
        ({"mask_index": int32(-1, 0)}, r"mask_index as int32\[8\]"),
        ({"mask_index": int32()}, "expected mask_index"),
        ({"mask_index": int32(0, -1, -1, -1, -1, 0, 1, -1)}, "-1 on context"),
        ({"mask_index": int32(-1, -1, -1, -1, -1, 0, 1, -2)}, "mask_index >= -1"),
        ({"mask_index": int32(-1, -1, -1, -1, -1, 0, 2, -1)}, r"each of 2 masks, got \[0, 2\]"),
        ({"mask_index": int32(-1, -1, -1, -1, -1, 0, 0, -1)}, r"each of 2 masks, got \[0\]"),
        ({"mask_index": int32(-1, -1, -1, -1, -1, 1, 0, -1)}, "got 1 under mask 1"),
        ({"mask_offsets": int32()}, "mask_offsets"),
        ({"mask_offsets": int32(0, 1)}, "mask_offsets"),
        ({"mask_offsets": int32(0, 2, 1)}, "mask_offsets"),
        ({"mask_offsets": int32(0, 0, 2)}, "mask_offsets"),
        ({"mask_offsets": int32(0, 2**31 - 1, 2)}, "mask_offsets"),
        ({"mask_runs": int32(1, 10, 9)}, "mask_offsets"),
        ({"mask_runs": int32(1, 11, 9, 10)}, r"in \[0, 10\]"),
        ({"mask_runs": int32(-1, 10, 9, 10)}, "mask_runs"),
        ({"mask_runs": int32(1, 10, 9, 9)}, "mask_runs"),
        ({"mask_offsets": int32(0, 2, 3), "mask_runs": int32(1, 5, 5, 10, 9, 10)}, "without touching"),
        ({"mask_runs": int32(1, 10, 1, 10)}, "2 different masks"),
        ({"mask_runs": int32(2, 10, 9, 10)}, "got 1 under mask 0"),
        ({"edge_sources": int32()}, "edge_sources"),
        ({"edge_kinds": ("returns", "returns")}, "edge_sources"),
        ({"edge_kinds": ("wishes",)}, "wishes"),
        ({"edge_sources": int32(2), "edge_targets": int32(1)}, r"to a later one of 3, got \(2, 1\)"),
        ({"edge_sources": int32(-1)}, r"got \(-1, 2\)"),
        ({"edge_targets": int32(3)}, r"got \(1, 3\)"),
        ({"edge_sources": int32(0)}, r"from parent to child, got \(0, 2\)"),
        (
            {
                "edge_sources": int32(1, 1),
                "edge_targets": int32(2, 2),
                "edge_kinds": ("returns", "continues"),
            },
            "each edge once, got 1 again",
        ),
    ],
)
def test_validate_names_what_is_wrong_with_a_later_column(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(TreeError, match=complaint):
        with_later_columns(**change).validate(vocab_size=10)


@pytest.mark.parametrize("what", ["MAX_NODES", "MAX_LEAVES", "MAX_EDGES", "MAX_SEQUENCE_TOKENS"])
def test_counts_are_bounded(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_module, what, 0)
    with pytest.raises(TreeError, match="at most 0 "):
        with_later_columns().validate()
    with pytest.raises(TreeError, match="expected at most 7 tokens, got 8"):
        two_rollouts().validate(max_tokens=7)


def test_rounding_above_zero_is_no_error() -> None:
    logprobs = float32(0, 0, 0, 1e-6, -2, -1, -3, 0)
    replace(two_rollouts(), behavior_logprobs=logprobs).validate()
