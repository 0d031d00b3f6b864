"""Random trajectory trees for tests of any part: every shape that the contract allows, from one seed."""

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from trieline.common.arrays import Bool, Float32, Int32
from trieline.wire.token_masks import runs_of
from trieline.wire.tree import CAUSES, EDGE_KINDS, FORK_CAUSES, SCORED, UNKNOWN_ENTROPY, TrajectoryTree

NONE = np.empty(0, np.int32)


def random_tree(
    rng: np.random.Generator,
    *,
    vocab_size: int = 40,
    max_nodes: int = 10,
    max_node_tokens: int = 6,
    max_policy_version: int = 3,
    inner_leaves: float = 0.2,
    broken_leaves: float = 0.15,
    env_id: str = "test/Random-v0",
    task_id: str | None = None,
    level: int = 0,
    max_entropy: float = np.inf,
    later_columns: bool = False,
) -> TrajectoryTree:
    """A valid tree whose prompt (the root) is context and whose every sequence has sampled tokens.

    Siblings often begin with the same tokens, so that a trie of it forks inside of nodes. With the share
    `inner_leaves` a sequence ends on an inner node, with `broken_leaves` a leaf is broken (at least one is
    scored unless that is 1), and now and then two sequences end on the same node. With `later_columns` it has
    groups of leaves, masks, unknown entropies and edges beside the token edges.
    """
    num_nodes = int(rng.integers(2, max_nodes + 1))
    parents = np.array([-1, *(int(rng.integers(0, n)) for n in range(1, num_nodes))], np.int32)
    sampled = np.array(
        [n > 0 and (parents[n] == 0 or rng.random() < 0.6) for n in range(num_nodes)], np.bool_
    )
    runs = _token_runs(rng, parents, vocab_size, max_node_tokens)
    by_policy = np.repeat(sampled, [len(run) for run in runs])
    num_tokens = len(by_policy)
    rewards = np.where(sampled & (rng.random(num_nodes) < 0.7), rng.normal(size=num_nodes), 0)
    leaf_nodes = _leaf_nodes(rng, parents, inner_leaves)
    causes = [str(rng.choice(CAUSES)) if rng.random() < broken_leaves else SCORED for _ in leaf_nodes]
    if SCORED not in causes and broken_leaves < 1:
        causes[int(rng.integers(len(causes)))] = SCORED
    tree = TrajectoryTree(
        env_id=env_id,
        task_id=task_id if task_id is not None else f"task-{rng.integers(1_000_000)}",
        level=level,
        parents=parents,
        node_offsets=np.cumsum([0, *(len(run) for run in runs)]).astype(np.int32),
        sampled=sampled,
        rewards=rewards.astype(np.float32),
        fork_causes=("", *(str(rng.choice(FORK_CAUSES)) for _ in range(num_nodes - 1))),
        token_ids=np.concatenate(runs),
        behavior_logprobs=_on(by_policy, -rng.exponential(1.5, num_tokens)),
        entropies=_on(by_policy, np.minimum(rng.exponential(1.0, num_tokens), max_entropy)),
        policy_versions=np.where(by_policy, rng.integers(0, max_policy_version + 1, num_tokens), -1).astype(
            np.int32
        ),
        leaf_nodes=leaf_nodes,
        leaf_terminated=rng.random(len(leaf_nodes)) < 0.7,
        leaf_causes=tuple(causes),
        info={"sample": "a few words"},
    )
    return _with_later_columns(rng, tree, vocab_size) if later_columns else tree


def allowed_by(runs: Int32, vocab_size: int) -> Bool:
    """[V] the inverse of `runs_of`."""
    allowed = np.zeros(vocab_size, np.bool_)
    for first, stop in runs.reshape(-1, 2).tolist():
        allowed[first:stop] = True
    return allowed


def _with_later_columns(rng: np.random.Generator, tree: TrajectoryTree, vocab_size: int) -> TrajectoryTree:
    sampled = np.flatnonzero(tree.policy_versions >= 0)
    allowed = rng.random((3, vocab_size)) < 0.5
    runs = [runs_of(mask) for mask in np.unique(allowed, axis=0)]
    index = np.full(tree.num_tokens, -1, np.int32)
    for token in sampled[rng.random(len(sampled)) < 0.5]:
        fits = [m for m, run in enumerate(runs) if allowed_by(run, vocab_size)[tree.token_ids[token]]]
        index[token] = rng.choice([-1, *fits])
    used = np.unique(index[index >= 0])
    renumbered = np.searchsorted(used, index).astype(np.int32)
    has_masks = len(used) > 0
    edges = [
        (a, b) for b in range(tree.num_nodes) for a in range(b) if a != tree.parents[b] and rng.random() < 0.2
    ]
    sources, targets = np.array(edges, np.int32).reshape(-1, 2).T
    unknown = np.isin(np.arange(tree.num_tokens), sampled[rng.random(len(sampled)) < 0.3])
    return replace(
        tree,
        entropies=np.where(unknown, np.float32(UNKNOWN_ENTROPY), tree.entropies),
        leaf_groups=rng.integers(0, 2, tree.num_leaves).astype(np.int32),
        mask_index=np.where(index >= 0, renumbered, -1).astype(np.int32) if has_masks else NONE,
        mask_offsets=np.cumsum([0, *(len(runs[m]) // 2 for m in used)]).astype(np.int32)
        if has_masks
        else NONE,
        mask_runs=np.concatenate([runs[m] for m in used]) if has_masks else NONE,
        edge_sources=sources.copy(),
        edge_targets=targets.copy(),
        edge_kinds=tuple(str(rng.choice(EDGE_KINDS)) for _ in edges),
    )


def long_tree(
    rng: np.random.Generator, *, num_tokens: int, num_leaves: int = 8, vocab_size: int = 49_152
) -> TrajectoryTree:
    """A prompt of a quarter of `num_tokens` and `num_leaves` rollouts of equal length that share the rest."""
    prompt = num_tokens // 4
    lengths = np.full(num_leaves, (num_tokens - prompt) // num_leaves)
    lengths[: (num_tokens - prompt) % num_leaves] += 1
    by_policy = np.arange(num_tokens) >= prompt
    return TrajectoryTree(
        env_id="test/Long-v0",
        task_id=f"task-{rng.integers(1_000_000)}",
        parents=np.array([-1, *[0] * num_leaves], np.int32),
        node_offsets=np.cumsum([0, prompt, *lengths]).astype(np.int32),
        sampled=np.arange(num_leaves + 1) > 0,
        rewards=rng.random(num_leaves + 1).astype(np.float32),
        fork_causes=("", *["rollout"] * num_leaves),
        token_ids=rng.integers(0, vocab_size, num_tokens).astype(np.int32),
        behavior_logprobs=_on(by_policy, -rng.exponential(1.5, num_tokens)),
        entropies=_on(by_policy, np.minimum(rng.exponential(1.0, num_tokens), np.log(vocab_size))),
        policy_versions=np.where(by_policy, 1, -1).astype(np.int32),
        leaf_nodes=np.arange(1, num_leaves + 1, dtype=np.int32),
        leaf_terminated=np.ones(num_leaves, np.bool_),
        leaf_causes=(SCORED,) * num_leaves,
    )


def _token_runs(
    rng: np.random.Generator, parents: Int32, vocab_size: int, max_node_tokens: int
) -> list[Int32]:
    """The tokens of each node; half of the later siblings begin like an earlier one."""
    runs: list[Int32] = []
    for n in range(len(parents)):
        run = rng.integers(0, vocab_size, int(rng.integers(1, max_node_tokens + 1))).astype(np.int32)
        siblings = np.flatnonzero(parents[:n] == parents[n])
        if len(siblings) and rng.random() < 0.5:
            model = runs[int(rng.choice(siblings))]
            shared = int(rng.integers(1, min(len(model), len(run)) + 1))
            run[:shared] = model[:shared]
        runs.append(run)
    return runs


def _leaf_nodes(rng: np.random.Generator, parents: Int32, inner_leaves: float) -> Int32:
    """Every node without children, some inner ones (never the prompt), and sometimes one of them twice."""
    has_children = np.isin(np.arange(len(parents)), parents)
    nodes = [n for n in range(1, len(parents)) if not has_children[n] or rng.random() < inner_leaves]
    if rng.random() < 0.1:
        nodes.append(nodes[int(rng.integers(len(nodes)))])
    return np.array(nodes, np.int32)


def _on(mask: Bool, values: npt.NDArray[np.float64]) -> Float32:
    return np.where(mask, values, 0).astype(np.float32)
