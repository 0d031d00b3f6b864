"""Tree attention by `cudnn.flex_attention` of nvidia-cudnn-frontend (1.31 or later), the mask as intervals.

In half precision, without a softcap, on Hopper and Blackwell. Importing this without the package is an
ImportError. `benchmarks/tree_attention.py` holds it against the other ways.
"""

from typing import Any

import cudnn
import torch
from torch import Tensor

create_mask_plan: Any = cudnn.create_mask_plan
flex_attn_func: Any = cudnn.flex_attn_func


def plan_cudnn_attention(intervals: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Any:
    """The plan for tensors like `q` [1, H, T, D], `k`, `v` [1, G, T, D]. `intervals`: as `path_intervals`."""
    by_token = (t.detach().transpose(1, 2) for t in (q, k, v))
    return create_mask_plan(intervals[None].contiguous(), *by_token, build_backward=True)


def cudnn_attention(q: Tensor, k: Tensor, v: Tensor, plan: Any, *, scale: float) -> Tensor:
    """Attend `q` [1, H, T, D] to `k`, `v` [1, G, T, D]; H is a multiple of G. Returns [1, T, H, D]."""
    by_token = (t.transpose(1, 2) for t in (q, k, v))
    with torch.cuda.device(q.device):
        out: Tensor = flex_attn_func(*by_token, mask_plan=plan, softmax_scale=scale)
    return out
