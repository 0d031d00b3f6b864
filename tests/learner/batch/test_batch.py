"""What a batch makes of the columns of a tree that most trees do not have."""

import numpy as np
import pytest
from msgspec.structs import replace

from tests.trees import NONE, random_tree
from trieline.common.tally import Tally
from trieline.learner.batch.batch import prepare_batch
from trieline.learner.batch.batch_metrics import add_tree_shapes
from trieline.learner.batch.groups import trained_groups
from trieline.learner.batch.sequences import ScoredSequence, scored_sequences
from trieline.learner.errors import BatchError
from trieline.learner.objective_config import ObjectiveConfig
from trieline.wire.tree import TrajectoryTree


def grouped_tree(seed: int) -> TrajectoryTree:
    """Leaves of two groups, each an episode of its own, no masks."""
    tree = random_tree(np.random.default_rng(seed), vocab_size=4, max_nodes=14, later_columns=True)
    without_edges = replace(tree, edge_sources=NONE, edge_targets=NONE, edge_kinds=())
    return replace(without_edges, mask_index=NONE, mask_offsets=NONE, mask_runs=NONE)


def slow_advantage(one: ScoredSequence, t: int, everyone: list[ScoredSequence], how: str) -> float:
    """Of token `t`, from the definitions, by looking at whole sequences."""
    group = [o for o in everyone if o.leaf_group == one.leaf_group]
    if how == "group":
        others = [o.sequence_return for o in group if o is not one]
        return one.sequence_return - sum(others) / len(others) if others else 0.0

    def returns_through(t: int) -> list[float]:
        prefix = one.token_ids[: t + 1].tolist()
        return [o.sequence_return for o in group if o.token_ids[: t + 1].tolist() == prefix]

    here = returns_through(t)
    while t >= 0 and len(returns_through(t - 1)) == len(here):
        t -= 1
    return float(np.mean(here) - np.mean(returns_through(t - 1))) if t >= 0 else 0.0


@pytest.mark.parametrize("how", ["group", "tree"])
@pytest.mark.parametrize("seed", range(20))
def test_sequences_are_compared_within_their_group_only(seed: int, how: str) -> None:
    config = ObjectiveConfig(advantage=how, skip_zero_std=False)  # type: ignore[arg-type]
    (everyone,) = scored_sequences([grouped_tree(seed)])
    (group,), _ = trained_groups([everyone], config)
    for one, advantages in zip(group.sequences, group.advantages, strict=True):
        expected = [slow_advantage(one, int(t), everyone, how) for t in np.flatnonzero(one.trained)]
        np.testing.assert_allclose(advantages, expected, rtol=1e-12, atol=1e-12)


def two_groups(returns: list[float]) -> list[ScoredSequence]:
    """Two sequences of group 0, then two of group 1."""
    return [
        ScoredSequence(
            tree=0,
            leaf=leaf,
            token_ids=np.array([0, leaf + 1], np.int32),
            trained=np.array([False, True]),
            behavior_logprobs=np.zeros(2, np.float32),
            entropies=np.zeros(2, np.float32),
            policy_versions=np.array([-1, 0], np.int32),
            rewards=np.array([0, earned], np.float32),
            terminated=True,
            leaf_group=leaf // 2,
        )
        for leaf, earned in enumerate(returns)
    ]


def test_a_group_of_equal_returns_is_left_out_of_its_tree() -> None:
    config = ObjectiveConfig(scale_rewards="group")
    # Equal within each group: nothing to learn, though the groups earned differently.
    assert trained_groups([two_groups([1, 1, 0, 0])], config) == ([], 1)
    (group,), equal = trained_groups([two_groups([1, 1, 0, 8])], config)
    assert equal == 0
    assert [s.leaf for s in group.sequences] == [2, 3]
    # Divided by the deviation within the group.
    np.testing.assert_allclose(np.concatenate(group.advantages), [-2, 2], rtol=1e-6)


def masked_tree() -> TrajectoryTree:
    trees = (random_tree(np.random.default_rng(s), later_columns=True, broken_leaves=0) for s in range(50))
    return next(t for t in trees if t.num_masks and np.isnan(t.entropies).any())


def test_sequences_carry_masks_and_nodes_along() -> None:
    tree = masked_tree()
    order = np.random.default_rng(0).permutation(tree.num_masks).astype(np.int32)
    other = replace(
        tree,
        mask_index=np.append(np.argsort(order), -1)[tree.mask_index].astype(np.int32),
        mask_runs=np.concatenate([tree.mask(m) for m in order]),
        mask_offsets=np.cumsum([0, *(len(tree.mask(m)) // 2 for m in order)]).astype(np.int32),
    )
    other.validate()
    first, second = scored_sequences([tree, other])
    for sequence, again in zip(first, second, strict=True):
        index = tree.sequence_index(sequence.leaf)
        assert sequence.mask_index is not None
        assert np.array_equal(sequence.mask_index, tree.mask_index[index])
        # Equal masks have one number, whatever it was in their tree.
        assert again.mask_index is not None
        assert np.array_equal(again.mask_index, sequence.mask_index)
        assert sequence.nodes is not None
        assert np.array_equal(np.unique(sequence.nodes), tree.path(int(tree.leaf_nodes[sequence.leaf])))


def one_token_each(*masks: list[int]) -> TrajectoryTree:
    """Rollouts of one token, 1 each, after the prompt [0]; of each the runs of its mask, [] for none."""
    distinct = [list(m) for m in dict.fromkeys(tuple(m) for m in masks if m)]
    n = len(masks)
    tree = TrajectoryTree(
        env_id="e",
        task_id="t",
        parents=np.array([-1, *[0] * n], np.int32),
        node_offsets=np.arange(n + 2, dtype=np.int32),
        sampled=np.arange(n + 1) > 0,
        rewards=np.arange(n + 1, dtype=np.float32),
        fork_causes=("", *["rollout"] * n),
        token_ids=np.array([0, *[1] * n], np.int32),
        behavior_logprobs=np.zeros(n + 1, np.float32),
        entropies=np.zeros(n + 1, np.float32),
        policy_versions=np.array([-1, *[0] * n], np.int32),
        leaf_nodes=np.arange(1, n + 1, dtype=np.int32),
        leaf_terminated=np.ones(n, np.bool_),
        leaf_causes=("",) * n,
        mask_index=np.array([-1, *(distinct.index(m) if m else -1 for m in masks)], np.int32),
        mask_offsets=np.cumsum([0, *(len(m) // 2 for m in distinct)]).astype(np.int32),
        mask_runs=np.array([edge for m in distinct for edge in m], np.int32),
    )
    tree.validate()
    return tree


def test_equal_tokens_are_merged_where_their_masks_are_equal() -> None:
    tree = one_token_each([], [1, 3], [0, 2], [1, 3], [])
    (pack,) = prepare_batch([tree], ObjectiveConfig(), max_tokens=100).packs
    assert pack.masks is not None
    assert pack.trie.token_ids.tolist() == [0, 1, 1, 1]
    assert pack.rows.tolist() == [0, 0, 0]
    assert pack.column_targets[0] == pack.column_targets[4]
    assert pack.column_targets[1] == pack.column_targets[3]
    rows = pack.target_rows[pack.column_targets]
    runs = [[] if pack.row_masks[r] < 0 else pack.masks.runs[pack.row_masks[r]].tolist() for r in rows]
    assert runs == [[], [1, 3], [0, 2], [1, 3], []]


def test_likelihood_is_trained_whatever_the_masks_were() -> None:
    tree = one_token_each([], [1, 3], [0, 2])
    (pack,) = prepare_batch([tree], ObjectiveConfig(loss="sft"), max_tokens=100).packs
    assert pack.masks is None
    assert pack.trie.token_ids.tolist() == [0, 1]


@pytest.mark.parametrize("scaling", ["sequence", "token"])
def test_unknown_entropies_are_refused_where_they_are_needed(scaling: str) -> None:
    tree = replace(masked_tree(), mask_index=NONE, mask_offsets=NONE, mask_runs=NONE)
    config = ObjectiveConfig(entropy_scaling=scaling)  # type: ignore[arg-type]
    with pytest.raises(BatchError, match=f"test/Random-v0, .*entropy_scaling = '{scaling}', got unknown"):
        prepare_batch([tree], config, max_tokens=100)
    batch = prepare_batch([tree], ObjectiveConfig(), max_tokens=100)
    assert all(np.isfinite(pack.scales).all() for pack in batch.packs)


def test_estimated_entropies_scale_rollouts_but_no_tokens() -> None:
    tree = replace(masked_tree(), mask_index=NONE, mask_offsets=NONE, mask_runs=NONE)
    estimated = replace(tree, entropies=np.abs(np.nan_to_num(tree.entropies)), entropies_estimated=True)
    with pytest.raises(BatchError, match="expected exact entropies with entropy_scaling = 'token'"):
        prepare_batch([estimated], ObjectiveConfig(entropy_scaling="token"), max_tokens=100)
    assert prepare_batch([estimated], ObjectiveConfig(entropy_scaling="sequence"), max_tokens=100).metrics


def test_forks_are_counted_by_who_asked_for_them() -> None:
    tree = random_tree(np.random.default_rng(3), vocab_size=4, max_nodes=14)
    causes = ["rollout", "rollout", "branch", "compaction", "compaction", "compaction", "token_mismatch"]
    assert len(tree.fork_causes) > len(causes)
    rest = [""] * (len(tree.fork_causes) - 1 - len(causes))
    metrics = Tally()
    add_tree_shapes(metrics, [replace(tree, fork_causes=("", *causes, *rest))] * 2, [[], []])
    assert (metrics["tree/forks"], metrics["tree/compactions"], metrics["tree/unasked_forks"]) == (5, 3, 1)
