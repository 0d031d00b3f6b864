"""Whether a `subtree_end` is one: the check that no kernel makes, because it waits for the device."""

from torch import Tensor


def check_preorder(subtree_end: Tensor) -> None:
    """Raise ValueError, naming the first bad token, unless `subtree_end` [T] is that of tries in preorder.

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
