"""Which sequences of a tree are one episode: those that lead, along edges, to the one with which it ended.

A leaf L leads to a leaf M when an edge goes from a node that is L's own to one on M's path. A node belongs to
the leaves that end with it; where none does, to the first one under it, down the oldest children: what a
later fork adds to it is not what the edge carried on. A branch without a leaf belongs to none.

An episode is a leaf that leads to no other, where it ends, and all that lead there, over any number of edges.
Of leaves that lead to each other only, as of two agents that talk, the one that ends last is the end.
"""

from collections.abc import Iterable, Sequence

from trieline.wire.errors import TreeError

MAX_VISITS = 8_000_000
"""Nodes of all episodes together, far above any search: some seconds."""


def find_episodes(
    parents: Sequence[int], leaf_nodes: Sequence[int], edges: Iterable[tuple[int, int]]
) -> list[list[int]]:
    """The leaves of each episode, in the order of their nodes, and last the one with which it ended.

    `edges` are (source, target); ends come in the order of the leaves. Raises TreeError beyond `MAX_VISITS`.
    """
    lineage = _Lineage(parents, leaf_nodes, edges)
    ends = [leaf for leaf in range(len(leaf_nodes)) if leaf not in lineage.leading]
    found = {end: lineage.leaves_of(end) for end in ends}
    placed = set().union(*found.values())
    for leaf in sorted(lineage.leading, key=lambda leaf: (-leaf_nodes[leaf], leaf)):
        if leaf not in placed:
            found[leaf] = lineage.leaves_of(leaf)
            placed |= found[leaf]
    return [
        [*sorted(leaves - {end}, key=lambda leaf: (leaf_nodes[leaf], leaf)), end]
        for end, leaves in sorted(found.items())
    ]


class _Lineage:
    """Who leads where."""

    def __init__(
        self, parents: Sequence[int], leaf_nodes: Sequence[int], edges: Iterable[tuple[int, int]]
    ) -> None:
        self._parents, self._leaf_nodes = parents, leaf_nodes
        self._owners = _owners(parents, leaf_nodes)
        self._visits = 0
        self._into: dict[int, list[int]] = {}
        """The sources of the edges to a node."""
        for source, target in edges:
            if self._owners[target]:
                self._into.setdefault(target, []).append(source)
        sources = {source for found in self._into.values() for source in found}
        self.leading = {leaf for source in sources for leaf in self._owners[source]}
        """The leaves that lead to another one, or to themselves alone."""

    def leaves_of(self, end: int) -> set[int]:
        """Those of the episode that ends with `end`."""
        found, waiting = {end}, [self._leaf_nodes[end]]
        seen: set[int] = set()
        used: set[int] = set()
        while waiting:
            node = waiting.pop()
            # Above a node that was seen, all were.
            while node >= 0 and node not in seen:
                seen.add(node)
                for source in self._into.get(node, ()):
                    if source not in used:
                        used.add(source)
                        new = [leaf for leaf in self._owners[source] if leaf not in found]
                        found.update(new)
                        waiting += [self._leaf_nodes[leaf] for leaf in new]
                node = self._parents[node]
        self._visits += len(seen) + len(found)
        if self._visits > MAX_VISITS:
            msg = f"expected episodes of at most {MAX_VISITS} nodes together, got more"
            raise TreeError(msg)
        return found


def _owners(parents: Sequence[int], leaf_nodes: Sequence[int]) -> list[list[int]]:
    """[N] the leaves to which each node belongs."""
    owners: list[list[int]] = [[] for _ in parents]
    ending: dict[int, list[int]] = {}
    for leaf, node in enumerate(leaf_nodes):
        ending.setdefault(node, []).append(leaf)
    for node in reversed(range(len(parents))):
        owners[node] = ending.get(node, owners[node])
        if owners[node] and node > 0:
            # Children come youngest first, so that the oldest one stays.
            owners[parents[node]] = owners[node][:1]
    return owners
