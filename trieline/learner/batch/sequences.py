"""The scored sequences of trajectory trees, as the objective sees them: root-to-leaf, one array a column.

Broken leaves never get here. Tokens are shared between sequences of a tree only by being equal, sampled under
equal masks: under others they have another log-probability.

Of the sequences of one episode that go through a node, one carries it: that of the oldest reply after it.
The others have it as context only, so that an episode trains each token that was sampled in it once, and
counts each state once, however often its agent began a new branch from it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trieline.common.arrays import Bool, Float32, Int32
from trieline.learner.batch.masks import MaskTable
from trieline.learner.batch.trie import TOKEN_BITS, Keys
from trieline.wire.tree import TrajectoryTree

GOES_ON, TERMINATED, TRUNCATED, LEADS_ON = range(4)
"""What a sequence does after a token. It leads on where an edge goes from its end to another sequence."""


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
    """[T] True where the policy sampled the token, and this sequence carries it. Never the first token:
    nothing predicts it."""
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
    """[T] the mask under which each token was sampled, -1: none. None: no token had one."""
    masks: MaskTable | None = None
    """Where `mask_index` points to; sequences that are put together have the same one."""
    episodes: tuple[tuple[int, float], ...] | None = None
    """The last leaf and the return of each scored episode that the sequence is part of, where that is not it
    alone. None: it is an episode."""
    own_from: int = 0
    """Index of the first token that this sequence carries; those before are carried by another one of its
    episode."""
    leads_to: tuple[int, ...] = ()
    """The nodes to which edges lead from its end: the text goes on after them."""
    tree_tokens: Int32 | None = None
    """[T] where the tokens stand in the columns of the tree; None: of no tree."""

    @property
    def sequence_return(self) -> float:
        """Undiscounted return of its episode, the mean if it is part of several."""
        if self.episodes is not None:
            return sum(earned for _, earned in self.episodes) / len(self.episodes)
        return float(self.rewards.sum(dtype=np.float64))

    @property
    def keys(self) -> Keys:
        """[T] by which the tokens of several sequences are merged (see `trie`)."""
        if self.mask_index is None:
            return self.token_ids
        return (self.mask_index.astype(np.int64) + 1 << TOKEN_BITS) + self.token_ids

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
    masks = MaskTable()
    return [
        tree_sequences(tree, tree_index=i, leaves=tree.scored_leaves(), masks=masks)
        for i, tree in enumerate(trees)
    ]


def tree_sequences(
    tree: TrajectoryTree, *, tree_index: int, leaves: Iterable[int], masks: MaskTable | None = None
) -> list[ScoredSequence]:
    """The sequences of some leaves of `tree`, scored or not. `masks`: where those of its tree go, too."""
    masks = masks or MaskTable()
    nodes, groups = tree.token_nodes, tree.comparison_groups
    by_policy = tree.sampled[nodes]
    rewards = np.zeros(tree.num_tokens, np.float32)
    rewards[tree.node_offsets[1:] - 1] = tree.rewards
    leaves = list(leaves)
    episodes = _shared_episodes(tree)
    own_from = _own_from(tree, leaves, episodes)
    leads_to: dict[int, set[int]] = {}
    for source, target in zip(tree.edge_sources.tolist(), tree.edge_targets.tolist(), strict=True):
        leads_to.setdefault(source, set()).add(target)
    mask_index = masks.index(tree)
    sequences = []
    for leaf in leaves:
        index = tree.sequence_index(leaf)
        trained = by_policy[index]
        trained[: max(1, own_from.get(leaf, 0))] = False
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
                mask_index=None if mask_index is None else mask_index[index],
                masks=None if mask_index is None else masks,
                episodes=tuple(episodes[leaf].items()) if leaf in episodes else None,
                own_from=own_from.get(leaf, 0),
                leads_to=tuple(sorted(leads_to.get(int(tree.leaf_nodes[leaf]), ()))),
                tree_tokens=index,
            )
        )
    return sequences


def _shared_episodes(tree: TrajectoryTree) -> dict[int, dict[int, float]]:
    """Of each leaf of an episode of several, the returns of its scored episodes by their last leaf."""
    found: dict[int, dict[int, float]] = {}
    if tree.edge_kinds:
        for leaves in tree.scored_episodes():
            if len(leaves) > 1:
                earned = tree.episode_return(leaves)
                for leaf in leaves:
                    found.setdefault(leaf, {})[leaves[-1]] = earned
    return found


def _own_from(
    tree: TrajectoryTree, leaves: Sequence[int], episodes: Mapping[int, Mapping[int, float]]
) -> dict[int, int]:
    """Where what each leaf carries begins, of those that leave something to another of their episode.

    One to which nothing sampled is left carries nothing at all: it will not be trained on.
    """
    if not episodes:
        return {}
    offsets = tree.node_offsets.tolist()
    found: dict[int, int] = {}
    carried: dict[int, set[int]] = {}
    paths = {leaf: tree.path(int(tree.leaf_nodes[leaf])) for leaf in leaves}
    sampled = tree.sampled.tolist()
    # Context may be older than its episode, which shares it with others. Replies are not.
    replies = {leaf: [node for node in path if sampled[node]] for leaf, path in paths.items()}
    for leaf in sorted(leaves, key=replies.__getitem__):
        own = set(episodes.get(leaf, (leaf,)))
        path = paths[leaf]
        left = [node for node in path if not own <= carried.setdefault(node, set())]
        if not any(sampled[node] for node in left):
            left = []
        found[leaf] = sum(offsets[node + 1] - offsets[node] for node in path[: len(path) - len(left)])
        for node in left:
            carried[node] |= own
    return found
