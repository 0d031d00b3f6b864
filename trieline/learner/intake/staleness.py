"""How old a tree may get, and how that is kept from happening instead of thrown away.

A tree is as old as its oldest sampled token. With T trees a step and a staleness of at most S versions, no
more than (S + 1) * T trees may be under way (asked for, or here and not trained on): the last of them is then
trained on S steps after it was asked for. With S = 0 acting and learning take turns.
"""

from dataclasses import dataclass

import numpy as np

from trieline.wire.tree import TrajectoryTree


@dataclass(frozen=True, kw_only=True, slots=True)
class Pacing:
    """The two numbers."""

    trees_per_step: int
    max_staleness: int

    @property
    def capacity(self) -> int:
        """Trees that may be under way."""
        return (self.max_staleness + 1) * self.trees_per_step

    def allowance(self, *, outstanding: int, buffered: int) -> int:
        """How many more may be asked for. `buffered`: here, not trained on, and good to train on."""
        return max(0, self.capacity - outstanding - buffered)

    def is_too_old(self, tree: TrajectoryTree, policy_version: int) -> bool:
        return staleness(tree, policy_version) > self.max_staleness


def staleness(tree: TrajectoryTree, policy_version: int) -> int:
    """Versions that the oldest sampled token of `tree` is behind `policy_version`; 0 if nothing was sampled.

    Never negative: a run that resumes trains again on trees that its own later versions had sampled.
    """
    versions = tree.policy_versions[np.repeat(tree.sampled, np.diff(tree.node_offsets))]
    return max(0, policy_version - int(versions.min())) if len(versions) else 0
