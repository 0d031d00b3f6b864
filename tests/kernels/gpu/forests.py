"""Random tries, and what every kernel's results are measured against."""

import numpy as np
import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {
    # Relative to the norm. float32: sums in another order.
    torch.float32: 1e-5,
    torch.float16: 1e-3,
    # Weights and results have 8 bits. The interpreter cuts bits off where a GPU rounds.
    torch.bfloat16: 5e-3 if DEVICE == "cuda" else 1e-2,
}


def forest(num_tokens: int, seed: int, *, fork: float = 0.05, padding: int = 0) -> Tensor:
    """`subtree_end` of tries of `num_tokens` in all; a token begins a branch with the probability `fork`."""
    rng = np.random.default_rng(seed)
    parents = [-1]
    for i in range(1, num_tokens):
        ancestor = i - 1
        if rng.random() < fork:
            for _ in range(int(rng.integers(1, 50))):
                ancestor = parents[ancestor] if ancestor >= 0 else -1
        parents.append(ancestor)
    ends = np.arange(1, num_tokens + 1)
    for i in range(num_tokens - 1, 0, -1):
        if parents[i] >= 0:
            ends[parents[i]] = max(ends[parents[i]], ends[i])
    ends = np.concatenate([ends, np.arange(num_tokens, num_tokens + padding)])
    return torch.from_numpy(ends.astype(np.int32)).to(DEVICE)


def visible_pairs(subtree_end: Tensor, query_offset: int = 0, window: int = 0) -> Tensor:
    """[queries, keys]"""
    keys = torch.arange(len(subtree_end), device=subtree_end.device)
    visible = (keys <= keys[:, None]) & (keys[:, None] < subtree_end)
    if window:
        depth = visible.sum(1)
        visible &= depth[:, None] - depth < window
    return visible[query_offset:]


def relative_error(got: Tensor, want: Tensor) -> float:
    """Of norms; absolute where the expected norm is small."""
    got, want = got.detach(), want.detach()
    return float((got.double() - want).norm() / want.norm().clamp_min(1.0))


def random_tensor(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    values = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return values.to(DEVICE, dtype)
