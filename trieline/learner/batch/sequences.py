"""The scored sequences of trajectory trees, as the objective sees them: root-to-leaf, one array a column.

Broken leaves never get here. Tokens are shared between sequences of a tree only by being equal.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt

from trieline.common.arrays import Bool, Float32, Int32
from trieline.wire.tree import SCORED, TrajectoryTree

GOES_ON, TERMINATED, TRUNCATED = range(3)
"""What a sequence does after a token."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ScoredSequence:
    """One sequence of T tokens that counts."""

    tree: int
    """Index of its tree in the batch."""
    leaf: int
    """Index of its leaf in the tree."""
    token_ids: Int32
    """[T]"""
    trained: Bool
    """[T] True where the policy sampled the token. Never the first token: nothing predicts it."""
    behavior_logprobs: Float32
    """[T] nats; 0 on context tokens."""
    entropies: Float32
    """[T] nats, recorded; 0 on context tokens, NaN where it is unknown."""
    policy_versions: Int32
    """[T] -1 on context tokens."""
    rewards: Float32
    """[T] reward received after each token."""
    terminated: bool
    """False: truncated, so that its value bootstraps."""
    nodes: Int32 | None = None
    """[T] the node of its tree that each token is from, of which the tree's edges speak; None: of no tree."""
    leaf_group: int = 0
    """Sequences of a tree are compared with each other if this is the same."""
    mask_index: Int32 | None = None
    """[T] the mask of its tree under which each token was sampled, -1: none. None: no token had one."""
    episodes: tuple[int, ...] | None = None
    """Of a context window, the last leaf of each episode that goes through it; None: it is an episode."""
    episode_return: float | None = None
    """Of a context window, the mean return of those episodes; None: that of the sequence."""

    @property
    def sequence_return(self) -> float:
        """Undiscounted sum of the rewards of its episode."""
        if self.episode_return is not None:
            return self.episode_return
        return float(self.rewards.sum(dtype=np.float64))

    @property
    def num_trained(self) -> int:
        return int(self.trained.sum())

    def endings(self) -> npt.NDArray[np.int64]:
        """[T] GOES_ON, but at the last token TERMINATED or TRUNCATED."""
        ending = np.full(len(self.token_ids), GOES_ON, np.int64)
        ending[-1] = TERMINATED if self.terminated else TRUNCATED
        return ending


def scored_sequences(trees: Sequence[TrajectoryTree]) -> list[list[ScoredSequence]]:
    """The scored sequences of each tree, in the order of its leaves."""
    return [tree_sequences(tree, tree_index=i, leaves=tree.scored_leaves()) for i, tree in enumerate(trees)]


def tree_sequences(tree: TrajectoryTree, *, tree_index: int, leaves: Iterable[int]) -> list[ScoredSequence]:
    """The sequences of some leaves of `tree`, scored or not."""
    nodes, groups = tree.token_nodes, tree.comparison_groups
    by_policy = tree.sampled[nodes]
    rewards = np.zeros(tree.num_tokens, np.float32)
    rewards[tree.node_offsets[1:] - 1] = tree.rewards
    windows = _windows(tree)
    sequences = []
    for leaf in leaves:
        index = tree.sequence_index(leaf)
        trained = by_policy[index]
        trained[0] = False
        sequences.append(
            ScoredSequence(
                tree=tree_index,
                leaf=leaf,
                token_ids=tree.token_ids[index],
                trained=trained,
                behavior_logprobs=tree.behavior_logprobs[index],
                entropies=tree.entropies[index],
                policy_versions=tree.policy_versions[index],
                rewards=rewards[index],
                terminated=bool(tree.leaf_terminated[leaf]),
                nodes=nodes[index],
                leaf_group=int(groups[leaf]),
                mask_index=tree.mask_index[index] if len(tree.mask_index) else None,
                episodes=tuple(windows[leaf]) if leaf in windows else None,
                episode_return=fmean(windows[leaf].values()) if leaf in windows else None,
            )
        )
    return sequences


def _windows(tree: TrajectoryTree) -> dict[int, dict[int, float]]:
    """The returns of the scored episodes, by their last leaf, of every leaf of one of several windows."""
    found: dict[int, dict[int, float]] = {}
    if tree.edge_kinds:
        for leaves in tree.episodes():
            if len(leaves) > 1 and tree.leaf_causes[leaves[-1]] == SCORED:
                earned = tree.episode_return(leaves)
                for leaf in leaves:
                    found.setdefault(leaf, {})[leaves[-1]] = earned
    return found
