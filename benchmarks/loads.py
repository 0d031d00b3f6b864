"""Batches that the benchmarks of a training step run: trees, and the rows that others would make of them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from unittest import mock

import numpy as np

from trieline.common.arrays import Int32
from trieline.learner.batch import batch as batch_module
from trieline.learner.batch import groups as groups_module
from trieline.learner.batch import pack as pack_module
from trieline.learner.batch.batch import Batch, prepare_batch
from trieline.learner.batch.packing import pack_groups
from trieline.learner.batch.trie import Trie
from trieline.learner.objective_config import ObjectiveConfig
from trieline.wire.tree import SCORED, TrajectoryTree

VOCABULARY = 49_152
OBJECTIVE = ObjectiveConfig(loss="sft")

TURNS = 12
PROMPT_TURNS = 4
"""Length of the prompt of an agent's run, in turns."""
SAMPLED_SHARE = 3 / 8
"""Of a turn's tokens; the rest is what the tools answered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A batch of equal trees: a trunk, some of whose last tokens were sampled, and sampled branches."""

    trees: int
    trunk: int
    sampled_trunk: int
    branches: int
    branch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A run of tokens to be made."""

    parent: int
    tokens: int
    sampled: bool


def shape_for(ratio: int, unique_tokens: int, load: str) -> Shape:
    """The batch of about `unique_tokens` with L/N = `ratio`: 2 * ratio branches on a trunk that fits."""
    if ratio == 1:
        return Shape(
            trees=8, trunk=unique_tokens // 16, sampled_trunk=0, branches=1, branch=unique_tokens // 16
        )
    # L = 2r (trunk + branch) = r N = r (trunk + 2r branch) makes trunk = (2r - 2) branch.
    trees = max(1, 8 // ratio)
    branch = round(unique_tokens / trees / (4 * ratio - 2))
    trunk = (2 * ratio - 2) * branch
    return Shape(
        trees=trees,
        trunk=trunk,
        sampled_trunk=trunk // 2 if load == "forks" else 0,
        branches=2 * ratio,
        branch=branch,
    )


def make_trees(shape: Shape, seed: int = 0, *, vocabulary: int = VOCABULARY) -> list[TrajectoryTree]:
    """The batch of a shape, with random tokens below `vocabulary`."""
    nodes = [Node(parent=-1, tokens=shape.trunk - shape.sampled_trunk, sampled=False)]
    if shape.sampled_trunk:
        nodes.append(Node(parent=0, tokens=shape.sampled_trunk, sampled=True))
    nodes += [Node(parent=len(nodes) - 1, tokens=shape.branch, sampled=True)] * shape.branches
    leaves = range(len(nodes) - shape.branches, len(nodes))
    rng = np.random.default_rng(seed)
    return [_random_tree(nodes, leaves, rng, vocabulary) for _ in range(shape.trees)]


def agent_trees(
    ratio: int, unique_tokens: int, seed: int = 0, *, vocabulary: int = VOCABULARY
) -> list[TrajectoryTree]:
    """One task's runs of an agent with tools, 2 * `ratio` of them in about `unique_tokens` tokens.

    The prompt is as long as four turns, a run has twelve of them. The first run is the trunk; the others
    leave it after a turn and end where it does, so late that L/N is about `ratio`. The last of them has its
    history compacted: it goes on from the prompt and a summary of one turn's length.
    """
    rng = np.random.default_rng(seed)
    runs = 2 * ratio
    # N = 4 + 12 + (runs - 1) left, in turns, and L = 16 runs = ratio N.
    left = 16 / (runs - 1)
    turn = max(8, round(unique_tokens / 32))
    sampled = round(turn * SAMPLED_SHARE)
    nodes = [Node(parent=-1, tokens=PROMPT_TURNS * turn, sampled=False)]

    def play(parent: int, turns: int) -> int:
        for number in range(turns):
            nodes.append(Node(parent=parent, tokens=sampled, sampled=True))
            parent = len(nodes) - 1
            # What the last turn is answered with, no policy reads.
            if number < turns - 1:
                nodes.append(Node(parent=parent, tokens=turn - sampled, sampled=False))
                parent = len(nodes) - 1
        return parent

    leaves = [play(0, TURNS)]
    for run in range(1, runs):
        turns = int(left) + int(rng.random() < left % 1)
        if run < runs - 1:
            leaves.append(play(2 * (TURNS - turns), turns))
        else:
            nodes.append(Node(parent=0, tokens=turn, sampled=False))
            leaves.append(play(len(nodes) - 1, turns))
    return [_random_tree(nodes, leaves, rng, vocabulary)]


def _tree(nodes: Sequence[Node], leaves: Sequence[int], token_ids: Int32) -> TrajectoryTree:
    lengths = [node.tokens for node in nodes]
    by_policy = np.repeat([node.sampled for node in nodes], lengths)
    nothing = np.zeros(len(by_policy), np.float32)
    return TrajectoryTree(
        env_id="benchmark/Tree-v0",
        task_id="",
        parents=np.array([node.parent for node in nodes], np.int32),
        node_offsets=np.cumsum([0, *lengths]).astype(np.int32),
        sampled=np.array([node.sampled for node in nodes]),
        rewards=np.zeros(len(nodes), np.float32),
        fork_causes=("",) * len(nodes),
        token_ids=token_ids,
        behavior_logprobs=nothing,
        entropies=nothing,
        policy_versions=np.where(by_policy, 0, -1).astype(np.int32),
        leaf_nodes=np.array(leaves, np.int32),
        leaf_terminated=np.ones(len(leaves), np.bool_),
        leaf_causes=(SCORED,) * len(leaves),
    )


def _random_tree(
    nodes: Sequence[Node], leaves: Sequence[int], rng: np.random.Generator, vocabulary: int
) -> TrajectoryTree:
    count = sum(node.tokens for node in nodes)
    return _tree(nodes, leaves, rng.integers(0, vocabulary, count).astype(np.int32))


def merged_rows(trees: Sequence[TrajectoryTree], max_tokens: int) -> Batch:
    """Every sequence a row of its own, its turns merged; the rows packed without padding."""
    rows = [_row(tree, tree.path(int(node))) for tree in trees for node in tree.leaf_nodes]
    return _pack_rows(rows, max_tokens)


def turn_rows(trees: Sequence[TrajectoryTree], max_tokens: int) -> Batch:
    """Every turn of every sequence a row of its own, which begins with all that was said before it."""
    rows = []
    for tree in trees:
        for leaf in tree.leaf_nodes:
            path = tree.path(int(leaf))
            rows += [
                _row(tree, path[: i + 1], last_alone=True) for i, n in enumerate(path) if tree.sampled[n]
            ]
    return _pack_rows(rows, max_tokens)


def _row(tree: TrajectoryTree, path: list[int], *, last_alone: bool = False) -> TrajectoryTree:
    """One path of a tree as a tree, of which all or only the last node is trained on."""
    first = len(path) - 1 if last_alone else 0
    runs = [tree.token_ids[tree.node_tokens(node)] for node in path]
    nodes = [
        Node(parent=i - 1, tokens=len(run), sampled=bool(tree.sampled[node]) and i >= first)
        for i, (node, run) in enumerate(zip(path, runs, strict=True))
    ]
    return _tree(nodes, [len(nodes) - 1], np.concatenate(runs))


def _pack_rows(rows: Sequence[TrajectoryTree], max_tokens: int) -> Batch:
    def pack_apart(sizes: Sequence[int], prompts: Sequence[Int32], *, max_tokens: int) -> list[list[int]]:
        nothing_shared = [np.array([row], np.int32) for row in range(len(prompts))]
        return pack_groups(sizes, nothing_shared, max_tokens=max_tokens)

    with (
        mock.patch.object(groups_module, "build_trie", separate_rows),
        mock.patch.object(pack_module, "build_trie", separate_rows),
        mock.patch.object(batch_module, "pack_groups", pack_apart),
    ):
        return prepare_batch(rows, OBJECTIVE, max_tokens=max_tokens)


def separate_rows(sequences: Sequence[Int32]) -> Trie:
    """Linear rows, one after the other: a forest that merges nothing."""
    lengths = [len(s) for s in sequences]
    starts = np.cumsum([0, *lengths])
    paths = tuple(np.arange(a, b, dtype=np.int32) for a, b in itertools.pairwise(starts))
    predecessor = np.arange(-1, starts[-1] - 1, dtype=np.int32)
    predecessor[starts[:-1]] = -1
    return Trie(
        token_ids=np.concatenate(sequences),
        position=np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
        subtree_end=np.repeat(starts[1:], lengths).astype(np.int32),
        predecessor=predecessor,
        paths=paths,
    )
