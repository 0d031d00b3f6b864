"""What each sampled token of a recorded tree was worth, as the run's objective would say it."""

from dataclasses import dataclass

import numpy as np

from trieline.common.arrays import Float64
from trieline.learner.batch.groups import teaches, trained_groups
from trieline.learner.batch.sequences import tree_sequences
from trieline.learner.objective_config import ObjectiveConfig
from trieline.wire.tree import TrajectoryTree

UNKNOWN_OBJECTIVE = ObjectiveConfig()


@dataclass(frozen=True, kw_only=True, slots=True)
class Credit:
    """Advantages of a tree's T tokens and B leaves; NaN where there is none: context, broken sequences."""

    of_tokens: Float64
    """[T] the mean over the scored sequences through a token: what the gradient makes of them."""
    of_leaves: Float64
    """[B] the mean over the sampled tokens of a sequence."""
    trained: bool
    """False: a step leaves the tree out, since its returns are all equal or nothing in it was sampled."""


class Creditor:
    """Computes them. A value head's and a batch's own scale can't be known from a tree alone."""

    def __init__(self, objective: ObjectiveConfig | None) -> None:
        """`objective`: of the run; None: it is not known, and is that of the defaults."""
        self._objective = objective or UNKNOWN_OBJECTIVE
        given = self._objective
        needs_more = given.advantage == "vtrace" or given.loss == "sft"
        self._kind = "group" if needs_more else given.advantage
        scale = "none" if needs_more or given.scale_rewards == "batch" else given.scale_rewards
        self._computed = ObjectiveConfig(advantage=self._kind, scale_rewards=scale, skip_zero_std=False)
        self.note = self._note(known=objective is not None)
        """What is computed, for people."""

    def credit(self, tree: TrajectoryTree) -> Credit:
        """Of one tree."""
        sequences = tree_sequences(tree, tree_index=0, leaves=tree.scored_leaves())
        total, through = np.zeros(tree.num_tokens), np.zeros(tree.num_tokens)
        leaves = np.full(tree.num_leaves, np.nan)
        groups, _ = trained_groups([sequences], self._computed)
        for group in groups:
            for sequence, advantages in zip(group.sequences, group.advantages, strict=True):
                tokens = tree.sequence_index(sequence.leaf)[sequence.trained]
                total[tokens] += advantages
                through[tokens] += 1
                leaves[sequence.leaf] = advantages.mean()
        known = np.where(through > 0, total / np.maximum(through, 1), np.nan)
        return Credit(of_tokens=known, of_leaves=leaves, trained=teaches(tree, self._objective))

    def _note(self, *, known: bool) -> str:
        given, kind = self._objective, self._kind
        if not known:
            return f"{kind} (the run's configuration isn't there)"
        if given.loss == "sft":
            return f"{kind} (the run's loss, sft, uses none)"
        if given.advantage == "vtrace":
            return f"{kind} (the run's own, vtrace, need the values of its model, which aren't recorded)"
        if given.scale_rewards == "batch":
            return f"{kind}, before they are divided by the standard deviation of a batch"
        if given.entropy_scaling != "off":
            return f"{kind}, before they are scaled by entropy"
        return kind
