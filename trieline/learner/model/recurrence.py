"""Recurrent layers (gated delta nets, Mamba-2, short convolutions) on tries, by the package tree-recurrence.

Such a layer reads its row in order, and would carry the state of one branch into the next. The package puts
itself between the layer and its recurrence: each segment then begins in the state in which its parent ends.
It is told of a trie by keywords of the forward (`trie_arguments`).
"""

from typing import Any

import torch
from torch import Tensor

INSTALL = "pip install 'trieline[recurrent]'"
ARGUMENTS = ("tree_cu_seqlens_q", "tree_segment_parents", "tree_segment_depths")
"""The keywords. They pass through attention, too, which has its own plan."""


def why_not_on_tries(hf_model: Any) -> str:
    """Why the recurrent layers of `hf_model` can't follow tries; "": they do from now on."""
    try:
        import tree_recurrence
    except ModuleNotFoundError as error:
        if error.name != "tree_recurrence":
            raise
        return f"recurrent layers are exact with the package tree-recurrence, if it knows them ({INSTALL})"
    support = tree_recurrence.install(hf_model)
    return "" if support.mode == "tree" else f"tree-recurrence says: {support.reason}"


def trie_arguments(subtree_end: Tensor) -> dict[str, Tensor]:
    """What the package needs to know of the preorder `subtree_end` [T]: chains, and what each hangs below."""
    ends = subtree_end.tolist()
    starts = [i for i in range(len(ends)) if i == 0 or ends[i] != ends[i - 1]]
    above: list[tuple[int, int]] = []
    parents: list[int] = []
    depths: list[int] = []
    for segment, start in enumerate(starts):
        while above and above[-1][1] <= start:
            above.pop()
        parents.append(above[-1][0] if above else -1)
        depths.append(len(above))
        above.append((segment, ends[start]))
    columns = ([*starts, len(ends)], parents, depths)
    return {
        name: torch.tensor(column, dtype=torch.int32, device=subtree_end.device)
        for name, column in zip(ARGUMENTS, columns, strict=True)
    }
