"""Which keys the queries of a trie see, as intervals: the mask of kernels that take no other.

In preorder the keys that query i sees, its path, are few runs of neighbours. A run begins at a root, or with
a branch that does not follow the token that it hangs below, and ends with the token that the next run hangs
below:

    visible(i) = [s_1, e_1) u ... u [s_m, e_m),   e_k = parent(s_{k+1}) + 1,   e_m = i + 1

A sliding window cuts off what is too far up the path. T tokens, M the most runs of a path.
"""

import torch
from torch import Tensor

from trieline.kernels.preorder import depths


def path_intervals(subtree_end: Tensor, *, window: int = 0) -> Tensor:
    """[2 M + 1, T] int32: of each query [0, F_0) u [F_1, F_2) u ..., with F_0 = 0, no endpoint below another.

    Intervals that a query does not need are empty, and so are all of padding. `window` as in
    `visible_pairs`; 0: none. Waits for the device once, to learn M.
    """
    ends = subtree_end.long()
    tokens, index = len(ends), torch.arange(len(ends), device=ends.device)
    depth = depths(subtree_end).long()
    by_depth, order = torch.sort(depth * tokens + index)

    def newest_at(wanted: Tensor) -> Tensor:
        """Of each token, the last one not after it of the depth `wanted`; in preorder, that on its path."""
        return order[(torch.searchsorted(by_depth, wanted * tokens + index, right=True) - 1).clamp(min=0)]

    parent = torch.where(depth > 0, newest_at(depth - 1), -1)
    begins = (ends > index) & ((parent != index - 1) | (index == 0))
    start = torch.where(begins, index, 0).cummax(0).values
    over = torch.zeros(tokens + 1, dtype=torch.int64, device=ends.device)
    over.scatter_add_(0, ends, begins.long())
    runs = begins.cumsum(0) - over.cumsum(0)[:tokens]
    most = int(runs.amax()) if tokens else 0
    first = torch.where(depth >= window, newest_at(depth - window + 1), 0) if window else 0 * index
    found = (index + 1).repeat(2 * most + 1, 1)
    found[0] = 0
    last = index
    for back in range(most):
        # The path from its end: run number `runs - 1 - back`, up to `last`.
        is_there, row = runs > back, (runs - 1 - back).clamp(min=0)
        for place, endpoint in ((2 * row + 1, start[last]), (2 * row + 2, last + 1)):
            cut = torch.maximum(endpoint, first)
            found[place, index] = torch.where(is_there, cut, found[place, index])
        last = parent[start[last]].clamp(min=0)
    return found.int()
