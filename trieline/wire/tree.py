"""A trajectory tree: everything that happened on one task, as flat columns.

A node is a run of tokens added by one author: the context (prompt, tool output) or the policy
(sampled). `parents[n] < n`, the root is node 0 with parent -1. A *sequence* is a path from the root to the
node of a leaf; a leaf may sit on an inner node, when one rollout ended where another went on.

Beside the token edges from parent to child, two kinds of edges say where text went on that no token edge
carries: a summary *continues* in the context window that begins with it, and the end of a sub-agent's
sequence *returns* to the node with its answer. They lead forwards in the order of the nodes, as token edges
do, so that all three together have no cycle.

Columns are only ever appended, with a default: older actors and journals have none of the later ones.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from trieline.common.arrays import Bool, Float32, Int32
from trieline.wire.errors import TreeError
from trieline.wire.lineage import find_episodes
from trieline.wire.token_masks import expect_masks

SCORED = ""
CAUSES = ("sandbox", "environment", "policy_server", "timeout")
"""Why a leaf is broken. A leaf whose cause is `SCORED` counts; the others never do."""

FORK_CAUSES = ("", "rollout", "branch", "token_mismatch", "compaction", "subagent", "side")
"""Why a node starts a branch of its own: not at all, another rollout of the task, a fork that the branching
policy or an agent asked for, two that nobody asked for and that are therefore counted, the work of a
sub-agent, or what is no work of the agent's (a title for a list of chats)."""

EDGE_KINDS = ("continues", "returns")
"""What an edge says beside the token edges: see the head of this module."""

UNKNOWN_ENTROPY = math.nan
"""Of a sampled token whose sampler did not say it. What is computed from it is visibly no number."""

# Bounds far above any search, far below a bomb.
MAX_NODES = 100_000
MAX_LEAVES = 16_384
MAX_EDGES = 100_000
# Of all sequences together, into which the learner takes a tree apart.
MAX_SEQUENCE_TOKENS = 32_000_000

ROUNDING = 1e-4
"""How far (nats) a log-probability may be above 0, or an entropy below it, for rounding alone."""

# As methods of arrays they cost a third more, on the small ones of most trees.
_MIN, _MAX = np.minimum.reduce, np.maximum.reduce

INT32, FLOAT32, BOOL = np.dtype(np.int32), np.dtype(np.float32), np.dtype(np.bool_)


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberBounds:
    """What the numbers of a tree may be, beside finite. Those of a tree that is one's own have no bounds."""

    least_logprob: float = -math.inf
    """Nats."""
    most_entropy: float = math.inf
    """Nats."""
    most_reward: float = math.inf
    """In either direction."""


NO_COLUMN: Int32 = np.empty(0, np.int32)
NO_COLUMN.flags.writeable = False


class TrajectoryTree(msgspec.Struct, frozen=True, kw_only=True, eq=False, omit_defaults=True):
    """One task's rollouts. T tokens in N nodes, B leaves.

    Example, two rollouts of the prompt [5, 6, 7], of which the second was rewarded:
    `parents=[-1, 0, 0]`, `node_offsets=[0, 3, 5, 8]`, `sampled=[F, T, T]`, `rewards=[0, 0, 1]`,
    `token_ids=[5, 6, 7, 1, 2, 1, 9, 2]`, `leaf_nodes=[1, 2]`.
    """

    env_id: str
    task_id: str
    level: int = 0
    """Difficulty level the task was drawn from; 0 where the environment has none."""
    parents: Int32
    """[N] parent node of each node, -1 for the root."""
    node_offsets: Int32
    """[N + 1] node n owns tokens `node_offsets[n]:node_offsets[n + 1]`, at least one."""
    sampled: Bool
    """[N] True where the policy wrote the node."""
    rewards: Float32
    """[N] reward received after the node's last token."""
    fork_causes: tuple[str, ...]
    """[N] one of `FORK_CAUSES` each."""
    token_ids: Int32
    """[T]"""
    behavior_logprobs: Float32
    """[T] nats, under the distribution really sampled from; 0 on context tokens."""
    entropies: Float32
    """[T] nats, of that distribution; 0 on context tokens, `UNKNOWN_ENTROPY` where it was not told."""
    policy_versions: Int32
    """[T] version of the weights that sampled the token; -1 on context tokens."""
    leaf_nodes: Int32
    """[B] the node each sequence ends with."""
    leaf_terminated: Bool
    """[B] True: the episode terminated; False: it was truncated, and its value bootstraps."""
    leaf_causes: tuple[str, ...]
    """[B] `SCORED`, or the cause for which the sequence is broken."""
    info: dict[str, str] = {}
    """Short notes for people (a sample of the text, the score's explanation). Never trained on."""
    leaf_groups: Int32 = NO_COLUMN
    """[B] sequences of one number are compared with each other, those of one agent, role or player, say.
    Empty: all with all. Read it as `comparison_groups`."""
    mask_index: Int32 = NO_COLUMN
    """[T] the mask under which a token was sampled: the only tokens that could be. -1: none, as always on
    context. Empty: no token had one."""
    mask_offsets: Int32 = NO_COLUMN
    """[M + 1] mask m allows the runs `mask_offsets[m]:mask_offsets[m + 1]`. All masks differ, and each is
    used. Empty: there are none."""
    mask_runs: Int32 = NO_COLUMN
    """[2 R] of each run the first token id and the one after its last, ascending and apart within a mask."""
    edge_sources: Int32 = NO_COLUMN
    """[E] the node whose end leads on"""
    edge_targets: Int32 = NO_COLUMN
    """[E] the later node to which it leads. Never its child: that is the token edge."""
    edge_kinds: tuple[str, ...] = ()
    """[E] one of `EDGE_KINDS` each."""
    entropies_estimated: bool = False
    """Some of the entropies are estimates (`Completion.entropies_estimated`)."""

    @property
    def num_nodes(self) -> int:
        return len(self.parents)

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_leaves(self) -> int:
        return len(self.leaf_nodes)

    @property
    def num_masks(self) -> int:
        return max(0, len(self.mask_offsets) - 1)

    @property
    def comparison_groups(self) -> Int32:
        """[B] `leaf_groups`, all 0 if they are not given."""
        return self.leaf_groups if len(self.leaf_groups) else np.zeros(self.num_leaves, np.int32)

    @property
    def token_nodes(self) -> Int32:
        """[T] the node of each token."""
        return np.repeat(np.arange(self.num_nodes, dtype=np.int32), np.diff(self.node_offsets))

    @property
    def num_sequence_tokens(self) -> int:
        """Tokens of all sequences together, those of broken leaves too: L."""
        return sum(self.sequence_lengths)

    @property
    def sequence_lengths(self) -> list[int]:
        """[B] tokens of each sequence."""
        offsets = self.node_offsets.tolist()
        depths: list[int] = []
        for node, parent in enumerate(self.parents.tolist()):
            before = depths[parent] if parent >= 0 else 0
            depths.append(before + offsets[node + 1] - offsets[node])
        return [depths[leaf] for leaf in self.leaf_nodes.tolist()]

    def path(self, node: int) -> list[int]:
        """Nodes from the root to `node`, both included."""
        nodes = []
        while node >= 0:
            nodes.append(node)
            node = int(self.parents[node])
        return nodes[::-1]

    def node_tokens(self, node: int) -> slice:
        """Where the tokens of `node` stand in the token columns."""
        return slice(int(self.node_offsets[node]), int(self.node_offsets[node + 1]))

    def sequence_index(self, leaf: int) -> Int32:
        """Token positions of the sequence of `leaf`, root first. Indexes every token column."""
        runs = [
            np.arange(*self.node_tokens(n).indices(self.num_tokens))
            for n in self.path(int(self.leaf_nodes[leaf]))
        ]
        return np.concatenate(runs).astype(np.int32)

    def sequence_return(self, leaf: int) -> float:
        """That of one leaf out of `sequence_returns`."""
        return self.sequence_returns()[leaf]

    def sequence_returns(self) -> list[float]:
        """[B] undiscounted return of the episode of each leaf: the sum of the rewards on its path, as a rule.

        Of a sequence that is part of several episodes, the mean of those that are scored; of one that is part
        of none, its own.
        """
        found: list[list[float]] = [[] for _ in range(self.num_leaves)]
        for leaves in self.scored_episodes():
            earned = self.episode_return(leaves)
            for leaf in leaves:
                found[leaf].append(earned)
        return [sum(f) / len(f) if f else self.episode_return([leaf]) for leaf, f in enumerate(found)]

    def episodes(self) -> list[list[int]]:
        """The leaves of each episode: its context windows and sub-agents, and last the one where it ended.

        Usually one leaf each. A sequence that led to several ends belongs to several episodes: see `lineage`.
        """
        if not self.edge_kinds:
            return [[leaf] for leaf in range(self.num_leaves)]
        edges = zip(self.edge_sources.tolist(), self.edge_targets.tolist(), strict=True)
        return find_episodes(self.parents.tolist(), self.leaf_nodes.tolist(), edges)

    def scored_episodes(self) -> list[list[int]]:
        """The episodes that count: those whose end is not broken."""
        return [leaves for leaves in self.episodes() if self.leaf_causes[leaves[-1]] == SCORED]

    def episode_return(self, leaves: list[int]) -> float:
        """Undiscounted sum of the rewards on the paths of the leaves of an episode, each node once."""
        nodes: set[int] = set()
        parents = self.parents
        for leaf in leaves:
            node = int(self.leaf_nodes[leaf])
            while node >= 0 and node not in nodes:
                nodes.add(node)
                node = int(parents[node])
        return float(sum(self.rewards[sorted(nodes)].tolist()))

    def scored_leaves(self) -> list[int]:
        """The leaves that count: not broken themselves, and part of an episode that counts."""
        scored = [b for b, cause in enumerate(self.leaf_causes) if cause == SCORED]
        if not self.edge_kinds:
            return scored
        counting = {leaf for leaves in self.scored_episodes() for leaf in leaves}
        return [leaf for leaf in scored if leaf in counting]

    def mask(self, index: int) -> Int32:
        """[2 R] the runs that a mask allows (see `token_masks`)."""
        start, stop = self.mask_offsets[index : index + 2]
        return self.mask_runs[2 * start : 2 * stop]

    def validate(
        self,
        *,
        vocab_size: int | None = None,
        max_tokens: int | None = None,
        bounds: NumberBounds | None = None,
    ) -> None:
        """Raise TreeError, naming the first broken invariant with what was expected and what came."""
        n, t, b = self.num_nodes, self.num_tokens, self.num_leaves
        if n == 0 or b == 0:
            msg = f"expected at least one node and one leaf, got {n} nodes and {b} leaves"
            raise TreeError(msg)
        _expect_at_most("tokens", t, max_tokens)
        _expect_at_most("nodes", n, MAX_NODES)
        _expect_at_most("leaves", b, MAX_LEAVES)
        self._validate_columns()
        self._validate_nodes()
        by_policy = self.sampled.repeat(self.node_offsets[1:] - self.node_offsets[:-1])
        self._validate_tokens(by_policy, vocab_size, bounds or NumberBounds())
        if len(self.mask_index) or len(self.mask_offsets) or len(self.mask_runs):
            expect_masks(
                self.mask_index,
                self.mask_offsets,
                self.mask_runs,
                token_ids=self.token_ids,
                by_policy=by_policy,
                vocab_size=vocab_size,
            )
        if self.edge_kinds:
            self._validate_edges()
        # The product is a bound, and costs nothing.
        if b * t > MAX_SEQUENCE_TOKENS and (total := self.num_sequence_tokens) > MAX_SEQUENCE_TOKENS:
            msg = f"expected sequences of at most {MAX_SEQUENCE_TOKENS} tokens together, got {total}"
            raise TreeError(msg)

    def _validate_columns(self) -> None:
        n, t, b = self.num_nodes, self.num_tokens, self.num_leaves
        _expect_column("parents", self.parents, INT32, n)
        _expect_column("node_offsets", self.node_offsets, INT32, n + 1)
        _expect_column("sampled", self.sampled, BOOL, n)
        _expect_column("rewards", self.rewards, FLOAT32, n)
        _expect_column("token_ids", self.token_ids, INT32, t)
        _expect_column("policy_versions", self.policy_versions, INT32, t)
        _expect_column("behavior_logprobs", self.behavior_logprobs, FLOAT32, t)
        _expect_column("entropies", self.entropies, FLOAT32, t)
        _expect_column("leaf_nodes", self.leaf_nodes, INT32, b)
        _expect_column("leaf_terminated", self.leaf_terminated, BOOL, b)
        for name, column, length in (
            ("leaf_groups", self.leaf_groups, b),
            ("mask_index", self.mask_index, t),
            ("mask_offsets", self.mask_offsets, len(self.mask_offsets)),
            ("mask_runs", self.mask_runs, len(self.mask_runs)),
        ):
            if column is not NO_COLUMN:
                _expect_column(name, column, INT32, length if len(column) else 0)
        _expect_column("edge_sources", self.edge_sources, INT32, len(self.edge_kinds))
        _expect_column("edge_targets", self.edge_targets, INT32, len(self.edge_kinds))
        _expect_count("fork_causes", self.fork_causes, n)
        _expect_count("leaf_causes", self.leaf_causes, b)
        _expect_known("fork_causes", self.fork_causes, FORK_CAUSES)
        _expect_known("leaf_causes", self.leaf_causes, (SCORED, *CAUSES))
        _expect_known("edge_kinds", self.edge_kinds, EDGE_KINDS)

    def _validate_nodes(self) -> None:
        # As Python's numbers: a call of numpy takes as long as a loop over fifty nodes.
        parents, offsets = self.parents.tolist(), self.node_offsets.tolist()
        if parents[0] != -1 or not all(0 <= p < n for n, p in enumerate(parents[1:], 1)):
            msg = f"expected parents[0] == -1 and 0 <= parents[n] < n after it, got {parents[:16]}"
            raise TreeError(msg)
        t = self.num_tokens
        rise = all(before < after for before, after in pairwise(offsets))
        if offsets[0] != 0 or offsets[-1] != t or not rise:
            msg = f"expected node_offsets to rise strictly from 0 to {t}, got {offsets[:16]}"
            raise TreeError(msg)
        leaves = self.leaf_nodes.tolist()
        if min(leaves) < 0 or max(leaves) >= len(parents):
            msg = f"expected leaf_nodes in [0, {len(parents)}), got {leaves[:16]}"
            raise TreeError(msg)

    def _validate_tokens(self, by_policy: Bool, vocab_size: int | None, bounds: NumberBounds) -> None:
        """`by_policy` [T] is True on sampled tokens."""
        known = self.entropies
        if math.isnan(_MIN(known)):
            known = np.where(by_policy & np.isnan(known), 0, known)
        for name, column, least, most in (
            ("rewards", self.rewards, -bounds.most_reward, bounds.most_reward),
            ("behavior_logprobs", self.behavior_logprobs, bounds.least_logprob, ROUNDING),
            ("entropies", known, -ROUNDING, bounds.most_entropy),
        ):
            # NaN goes through min and max.
            lowest, highest = float(_MIN(column)), float(_MAX(column))
            if not (math.isfinite(lowest) and math.isfinite(highest)):
                msg = f"expected finite {name}, got {lowest}..{highest}"
                raise TreeError(msg)
            if lowest < least or highest > most:
                msg = f"expected {name} in [{least:g}, {most:g}], got {lowest}..{highest}"
                raise TreeError(msg)
        low, high = int(_MIN(self.token_ids)), int(_MAX(self.token_ids))
        if low < 0 or (vocab_size is not None and high >= vocab_size):
            msg = f"expected token_ids in [0, {vocab_size or 'vocabulary size'}), got {low}..{high}"
            raise TreeError(msg)
        # By their bytes: half the time of an elementwise comparison.
        if (self.policy_versions >= 0).tobytes() != by_policy.tobytes():
            msg = "expected policy_versions >= 0 on sampled tokens and -1 on context, got the opposite"
            raise TreeError(msg)

    def _validate_edges(self) -> None:
        _expect_at_most("edges", len(self.edge_kinds), MAX_EDGES)
        sources, targets = self.edge_sources, self.edge_targets
        edges = list(zip(sources.tolist(), targets.tolist(), strict=True))
        if not edges:
            return
        if not ((sources >= 0) & (sources < targets) & (targets < self.num_nodes)).all():
            wrong = next(edge for edge in edges if not 0 <= edge[0] < edge[1] < self.num_nodes)
            msg = f"expected edges from a node to a later one of {self.num_nodes}, got {wrong}"
            raise TreeError(msg)
        if (self.parents[targets] == sources).any():
            wrong = next(edge for edge in edges if self.parents[edge[1]] == edge[0])
            msg = f"expected edges beside those from parent to child, got {wrong}"
            raise TreeError(msg)
        if len(set(edges)) < len(edges):
            msg = f"expected each edge once, got {len(edges) - len(set(edges))} again"
            raise TreeError(msg)
        self.episodes()  # raises where they are too many to go through


def _expect_at_most(what: str, count: int, most: int | None) -> None:
    if most is not None and count > most:
        msg = f"expected at most {most} {what}, got {count}"
        raise TreeError(msg)


def _expect_column(name: str, column: npt.NDArray[Any], dtype: np.dtype[Any], length: int) -> None:
    if column.dtype != dtype or column.shape != (length,):
        msg = f"expected {name} as {dtype.name}[{length}], got {column.dtype.name}{list(column.shape)}"
        raise TreeError(msg)


def _expect_count(name: str, values: tuple[str, ...], count: int) -> None:
    if len(values) != count:
        msg = f"expected {count} {name}, got {len(values)}"
        raise TreeError(msg)


def _expect_known(name: str, values: tuple[str, ...], known: tuple[str, ...]) -> None:
    if unknown := set(values).difference(known):
        msg = f"expected {name} out of {known}, got {sorted(unknown)[:8]}"
        raise TreeError(msg)
