"""What a `subtree_end` says by itself: whether it is one, and how deep its tokens are."""

import torch
from torch import Tensor


def depths(subtree_end: Tensor) -> Tensor:
    """[T] how many tokens are above each of the preorder `subtree_end` [T], as int32 on its device.

    Of the i tokens before token i those are above it whose subtree goes on. Does not wait for the device.
    """
    tokens = len(subtree_end)
    ended = torch.zeros(tokens + 1, dtype=torch.int32, device=subtree_end.device)
    ended.scatter_add_(0, subtree_end.long(), torch.ones_like(subtree_end, dtype=torch.int32))
    index = torch.arange(tokens, dtype=torch.int32, device=subtree_end.device)
    return index - ended.cumsum(0, dtype=torch.int32)[:tokens]


def check_preorder(subtree_end: Tensor) -> None:
    """The check that no kernel makes, because it waits for the device.

    Raise ValueError, naming the first bad token, unless `subtree_end` [T] is that of tries in preorder.

    The subtree of token j is `j : subtree_end[j]`, and subtrees are nested or apart. Padding, which no token
    sees, has `subtree_end[j] = j`.
    """
    if subtree_end.ndim != 1 or subtree_end.is_floating_point():
        msg = f"expected subtree_end [T] of integers, got {[*subtree_end.shape]} {subtree_end.dtype}"
        raise ValueError(msg)
    ends = subtree_end.tolist()
    open_subtrees: list[tuple[int, int]] = []
    for token, end in enumerate(ends):
        if not token <= end <= len(ends):
            msg = f"token {token}: expected a subtree_end from {token} to {len(ends)}, got {end}"
            raise ValueError(msg)
        while open_subtrees and open_subtrees[-1][1] <= token:
            open_subtrees.pop()
        if open_subtrees and end > open_subtrees[-1][1]:
            ancestor, limit = open_subtrees[-1]
            msg = (
                f"token {token}: expected a subtree_end of at most {limit}, "
                f"that of token {ancestor} which it is under, got {end}"
            )
            raise ValueError(msg)
        open_subtrees.append((token, end))
