"""What all layers of one forward pass share of a trie's attention, planned once a pack.

Each device has a plan of its own: parts on the CPU (`cpu/tree_parts`), blocks for the Triton kernels
(`gpu/tree_blocks`). T tokens in depth-first preorder; query i sees key j iff `j <= i < subtree_end[j]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trieline.kernels.cpu.tree_parts import TreeParts, plan_tree_parts
from trieline.kernels.gpu.availability import takes_triton

if TYPE_CHECKING:
    from trieline.kernels.gpu.tree_blocks import TreeBlocks


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TreeAttentionPlan:
    """The plan of one device. Without either, on a GPU without Triton, the dense reference runs."""

    subtree_end: Tensor
    """[T] int32 or int64."""
    cpu_parts: TreeParts | None = None
    gpu_blocks: TreeBlocks | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.subtree_end)


def plan_tree_attention(
    subtree_end: Tensor, *, dtype: torch.dtype, reproducible: bool = True, num_above: int = 0
) -> TreeAttentionPlan:
    """Plan the attention of the preorder `subtree_end` [T] for queries of `dtype`, on its device.

    Args:
        subtree_end: as in the module.
        dtype: of queries, keys and values.
        reproducible: on a CPU, results in half precision that don't depend on the order of sums; see
            `plan_tree_parts`.
        num_above: for `segment_attention`, how many tokens are on the path above these. The CPU path does
            not need to know.
    """
    if takes_triton(subtree_end.device, dtype):
        # Not at the top: without Triton this module must import.
        from trieline.kernels.gpu.tree_blocks import plan_tree_blocks

        above = subtree_end.new_full((num_above,), num_above + len(subtree_end))
        ends = torch.cat([above, subtree_end + num_above]) if num_above else subtree_end
        blocks = plan_tree_blocks(ends, query_offset=num_above)
        return TreeAttentionPlan(subtree_end=subtree_end, gpu_blocks=blocks)
    if subtree_end.device.type == "cpu":
        parts = plan_tree_parts(subtree_end, dtype=dtype, reproducible=reproducible)
        return TreeAttentionPlan(subtree_end=subtree_end, cpu_parts=parts)
    return TreeAttentionPlan(subtree_end=subtree_end)
