"""Packs of tries for the benchmarks of attention, as predecessors in preorder: no trees, no tokens."""

import numpy as np


def random_parents(tokens: int, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Tries whose branches begin anywhere on the path so far, as deep as L/N = `ratio` asks for."""
    branches = max(1, round(2 * ratio))
    tree = max(tokens // max(1, tokens // 4096), 1)
    trunk_share = 0.0 if ratio <= 1 else (ratio - 1) / (ratio - 0.5)
    return _with_branches(tokens, tree, trunk_share, branches, rng, anywhere=True)


def agent_parents(tokens: int, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """One prompt and trunk of turns a task, and rollouts of equal length that leave it at its end."""
    branches = max(1, round(2 * ratio))
    tree = max(tokens // max(1, tokens // 16_384), 1)
    trunk_share = 0.0 if ratio <= 1 else (ratio - 1) / (ratio - 0.5)
    return _with_branches(tokens, tree, trunk_share, branches, rng, anywhere=False)


def _with_branches(
    tokens: int, tree: int, trunk_share: float, branches: int, rng: np.random.Generator, *, anywhere: bool
) -> np.ndarray:
    """[tokens] predecessor in preorder, -1 at roots; later branches leave the trunk earlier."""
    parents = np.arange(-1, tokens - 1)
    for start in range(0, tokens, tree):
        stop = min(start + tree, tokens)
        trunk = int((stop - start) * trunk_share)
        parents[start] = -1
        if trunk == 0:
            parents[np.linspace(start, stop, branches + 1).astype(int)[:-1]] = -1
            continue
        begins = np.linspace(start + trunk, stop, branches + 1).astype(int)[1:-1]
        # In this order, or what stands here would be no preorder.
        before_end = np.sort(rng.integers(0, trunk, len(begins))) // 2 if anywhere else 0
        leaves = start + trunk - 1 - before_end
        parents[begins] = leaves
    return parents


def subtree_ends(parents: np.ndarray) -> np.ndarray:
    """[tokens] one past the last token of each one's subtree, int32."""
    ends = np.arange(1, len(parents) + 1)
    for i in range(len(parents) - 1, -1, -1):
        if parents[i] >= 0:
            ends[parents[i]] = max(ends[parents[i]], ends[i])
    return ends.astype(np.int32)


def paths_of(parents: np.ndarray) -> list[np.ndarray]:
    """Indices from root to leaf of every sequence."""
    depth = np.zeros(len(parents), int)
    for i, parent in enumerate(parents):
        depth[i] = depth[parent] + 1 if parent >= 0 else 1
    leaves = np.setdiff1d(np.arange(len(parents)), parents)
    paths = []
    for leaf in leaves:
        path = np.empty(depth[leaf], int)
        at = leaf
        for place in range(depth[leaf] - 1, -1, -1):
            path[place] = at
            at = parents[at]
        paths.append(path)
    return paths
