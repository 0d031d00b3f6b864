"""The advantages that a page shows are those that a step would use."""

import numpy as np
import pytest

from tests.launcher.view.example_trees import agent_tree
from tests.trees import random_tree
from tests.wire.test_tree import two_rollouts
from trieline.launcher.view.credit import Creditor
from trieline.learner.batch.groups import trained_groups
from trieline.learner.batch.sequences import tree_sequences
from trieline.learner.objective_config import ObjectiveConfig


def test_two_rollouts_against_each_other() -> None:
    credit = Creditor(ObjectiveConfig()).credit(two_rollouts())
    assert credit.of_leaves.tolist() == [-1, 1]
    np.testing.assert_array_equal(credit.of_tokens, [np.nan] * 3 + [-1, -1, 1, 1, 1])
    assert credit.trained


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["group", "tree"])
def test_they_are_the_objectives_own(seed: int, kind: str) -> None:
    objective = ObjectiveConfig(advantage=kind, scale_rewards="group")  # type: ignore[arg-type]
    tree = random_tree(np.random.default_rng(seed))
    credit = Creditor(objective).credit(tree)
    sequences = tree_sequences(tree, tree_index=0, leaves=tree.scored_leaves())
    groups, _ = trained_groups([sequences], objective)
    through: dict[int, list[float]] = {}
    for sequence, advantages in zip(groups[0].sequences, groups[0].advantages, strict=True) if groups else ():
        assert credit.of_leaves[sequence.leaf] == pytest.approx(advantages.mean())
        for token, advantage in zip(
            tree.sequence_index(sequence.leaf)[sequence.trained], advantages, strict=True
        ):
            through.setdefault(int(token), []).append(advantage)
    assert credit.trained == bool(groups)
    for token, advantages_there in through.items():
        assert credit.of_tokens[token] == pytest.approx(np.mean(advantages_there))
    assert np.isnan(credit.of_tokens[~np.repeat(tree.sampled, np.diff(tree.node_offsets))]).all()


def test_a_broken_leaf_and_a_side_branch_have_none() -> None:
    tree = agent_tree()
    credit = Creditor(None).credit(tree)
    assert np.isnan(credit.of_leaves).tolist() == [False, False, False, True]
    for node in (8, 10, 11):
        assert np.isnan(credit.of_tokens[tree.node_tokens(node)]).all()


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (None, "group (the run's configuration isn't there)"),
        (ObjectiveConfig(), "group"),
        (ObjectiveConfig(advantage="tree"), "tree"),
        (ObjectiveConfig(scale_rewards="batch"), "group, before they are divided by"),
        (ObjectiveConfig(entropy_scaling="token"), "group, before they are scaled by entropy"),
        (ObjectiveConfig(advantage="vtrace"), "need the values of its model, which aren't recorded"),
        (ObjectiveConfig(loss="sft"), "sft, uses none"),
    ],
)
def test_what_is_shown_is_said(objective: ObjectiveConfig | None, said: str) -> None:
    creditor = Creditor(objective)
    assert said in creditor.note
    assert np.sign(creditor.credit(two_rollouts()).of_leaves).tolist() == [-1, 1]
