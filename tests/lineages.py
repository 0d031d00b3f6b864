"""Trajectory trees drawn by hand: a line for each node, and edges between them by name."""

from collections.abc import Mapping, Sequence

import numpy as np

from trieline.wire.tree import SCORED, TrajectoryTree


def drawn(
    nodes: Mapping[str, tuple[str, float]],
    *,
    leaves: Sequence[str],
    edges: Sequence[tuple[str, str]] = (),
    broken: Sequence[str] = (),
    tokens: int = 2,
    vocab_size: int = 64,
    seed: int = 0,
) -> TrajectoryTree:
    """A tree of nodes of `tokens` tokens each, in their order; the first one is the root.

    Args:
        nodes: the name of each, with that of its parent and its reward. Names in capitals are the policy's.
        leaves: names of the nodes with which sequences end, in their order.
        edges: from node to node; to a window (its name begins with "w") they continue, else they return.
        broken: leaves that are.
        tokens: of each node.
        vocab_size: tokens are drawn below it.
        seed: of tokens, log-probabilities and entropies.
    """
    rng = np.random.default_rng(seed)
    place = {name: n for n, name in enumerate(nodes)}
    sampled = np.array([name.isupper() for name in nodes])
    by_policy = np.repeat(sampled, tokens)
    count = tokens * len(nodes)
    tree = TrajectoryTree(
        env_id="test/Drawn-v0",
        task_id="t",
        parents=np.array([place.get(parent, -1) for parent, _ in nodes.values()], np.int32),
        node_offsets=np.arange(0, count + 1, tokens, dtype=np.int32),
        sampled=sampled,
        rewards=np.array([reward for _, reward in nodes.values()], np.float32),
        fork_causes=("",) * len(nodes),
        token_ids=rng.integers(0, vocab_size, count).astype(np.int32),
        behavior_logprobs=np.where(by_policy, -rng.exponential(1.5, count), 0).astype(np.float32),
        entropies=np.where(by_policy, rng.exponential(1.0, count), 0).astype(np.float32),
        policy_versions=np.where(by_policy, 0, -1).astype(np.int32),
        leaf_nodes=np.array([place[name] for name in leaves], np.int32),
        leaf_terminated=np.ones(len(leaves), np.bool_),
        leaf_causes=tuple("policy_server" if name in broken else SCORED for name in leaves),
        edge_sources=np.array([place[a] for a, _ in edges], np.int32),
        edge_targets=np.array([place[b] for _, b in edges], np.int32),
        edge_kinds=tuple("continues" if b.startswith("w") else "returns" for _, b in edges),
    )
    tree.validate(vocab_size=vocab_size)
    return tree


def nested(**changes: object) -> TrajectoryTree:
    """Two rollouts: the first asks a sub-agent that asks one itself, and another beside it; the second none.

    Leaves: 0 the inner sub-agent, 1 the outer one, 2 the parallel one, 3 and 4 the ends of the rollouts.
    """
    nodes = {
        "prompt": ("", 0.0),
        "CALL": ("prompt", 0.0),
        "task": ("prompt", 0.0),
        "ASK": ("task", 0.0),
        "inner": ("prompt", 0.0),
        "FOUND": ("inner", 0.125),
        "result": ("ASK", 0.0),
        "TELL": ("result", 0.0),
        "beside": ("prompt", 0.0),
        "SEEN": ("beside", 0.0),
        "results": ("CALL", 0.0),
        "END": ("results", 1.0),
        "OTHER": ("prompt", 0.25),
    }
    edges = [("FOUND", "result"), ("TELL", "results"), ("SEEN", "results")]
    leaves = ["FOUND", "TELL", "SEEN", "END", "OTHER"]
    return drawn(nodes, leaves=leaves, edges=edges, **changes)  # type: ignore[arg-type]


def compacted(*, to_replies: bool = False, **changes: object) -> TrajectoryTree:
    """Two rollouts: one of three windows, with a sub-agent in the second; one of a single window.

    The third window keeps the beginning of the second one. Leaves: 0, 1 and 3 the windows, 2 the sub-agent, 4
    the other rollout. With `to_replies` edges lead not to the context that holds the text, but to the replies
    after it.
    """
    nodes = {
        "prompt": ("", 0.0),
        "FIRST": ("prompt", 0.0),
        "w2": ("prompt", 0.0),
        "ASK": ("w2", 0.0),
        "task": ("prompt", 0.0),
        "TELL": ("task", 0.5),
        "result": ("ASK", 0.0),
        "SECOND": ("result", 0.0),
        "w3": ("ASK", 0.0),
        "END": ("w3", 2.0),
        "OTHER": ("prompt", 0.5),
    }
    edges = [("FIRST", "w2"), ("TELL", "result"), ("SECOND", "w3")]
    if to_replies:
        edges = [("FIRST", "ASK"), ("TELL", "SECOND"), ("SECOND", "END")]
    leaves = ["FIRST", "SECOND", "TELL", "END", "OTHER"]
    return drawn(nodes, leaves=leaves, edges=edges, **changes)  # type: ignore[arg-type]
