"""What all layers of one forward pass share of a trie's attention, planned once a pack.

Each device has a plan of its own: parts on the CPU (`cpu/tree_parts`), blocks for the Triton kernels
(`gpu/tree_blocks`). T tokens in depth-first preorder; query i sees key j iff `j <= i < subtree_end[j]`, and
in layers with a sliding window only if `depth[i] - depth[j] < window`, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trieline.kernels.cpu.tree_parts import TreeParts, plan_tree_parts
from trieline.kernels.cpu.window_parts import plan_window_parts
from trieline.kernels.gpu.availability import takes_triton
from trieline.kernels.preorder import depths

if TYPE_CHECKING:
    from trieline.kernels.gpu.tree_blocks import TreeBlocks


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TreeAttentionPlan:
    """The plan of one device. Without either, on a GPU without Triton, the dense reference runs."""

    subtree_end: Tensor
    """[T] int32 or int64."""
    dtype: torch.dtype
    reproducible: bool
    num_above: int
    window: int = 0
    """0: none."""
    cpu_parts: TreeParts | None = None
    gpu_blocks: TreeBlocks | None = None
    _windowed: dict[int, TreeAttentionPlan] = field(default_factory=dict)
    """By window, made when the first layer asks."""

    @property
    def num_tokens(self) -> int:
        return len(self.subtree_end)

    def windowed(self, window: int) -> TreeAttentionPlan:
        """The plan of layers in which a token sees the last `window` tokens of its path, with itself."""
        if window not in self._windowed:
            self._windowed[window] = _plan_window(self, window)
        return self._windowed[window]


def plan_tree_attention(
    subtree_end: Tensor, *, dtype: torch.dtype, reproducible: bool = True, num_above: int = 0
) -> TreeAttentionPlan:
    """Plan the attention of the preorder `subtree_end` [T] for queries of `dtype`, on its device.

    Args:
        subtree_end: as in the module.
        dtype: of queries, keys and values.
        reproducible: on a CPU, results in half precision that don't depend on the order of sums; see
            `plan_tree_parts`.
        num_above: for `segment_attention`, how many tokens are on the path above these.
    """
    plan = TreeAttentionPlan(
        subtree_end=subtree_end, dtype=dtype, reproducible=reproducible, num_above=num_above
    )
    if takes_triton(subtree_end.device, dtype):
        # Not at the top: without Triton this module must import.
        from trieline.kernels.gpu.tree_blocks import plan_tree_blocks

        above = subtree_end.new_full((num_above,), num_above + len(subtree_end))
        ends = torch.cat([above, subtree_end + num_above]) if num_above else subtree_end
        blocks = plan_tree_blocks(ends, query_offset=num_above)
        return replace(plan, gpu_blocks=blocks)
    if subtree_end.device.type == "cpu":
        parts = plan_tree_parts(subtree_end, dtype=dtype, reproducible=reproducible)
        return replace(plan, cpu_parts=parts)
    return plan


def _plan_window(plan: TreeAttentionPlan, window: int) -> TreeAttentionPlan:
    if window < 1:
        msg = f"expected a window of at least 1 token, got {window}"
        raise ValueError(msg)
    ends, above = plan.subtree_end, plan.num_above
    if window >= above + len(ends):
        return plan
    if plan.gpu_blocks is not None:
        from trieline.kernels.gpu.tree_blocks import plan_tree_blocks

        keys = plan.gpu_blocks.subtree_end
        blocks = plan_tree_blocks(keys, query_offset=above, window=window, depth=depths(keys))
        return replace(plan, window=window, gpu_blocks=blocks, _windowed={})
    if plan.cpu_parts is None:
        return replace(plan, window=window, _windowed={})
    depth = depths(ends) + above
    if int(depth.max()) < window:
        return plan
    parts = plan_window_parts(
        ends, depth, window=window, num_above=above, dtype=plan.dtype, reproducible=plan.reproducible
    )
    return replace(plan, window=window, cpu_parts=parts, _windowed={})
