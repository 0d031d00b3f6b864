"""Attention by nvidia-cudnn-frontend against the dense formula in float64, where there are both."""

import pytest
import torch

from tests.kernels.gpu.forests import TOLERANCE, forest, random_tensor, relative_error
from trieline.kernels.path_intervals import path_intervals
from trieline.kernels.tree_attention import reference_tree_attention

pytest.importorskip("cudnn", reason="nvidia-cudnn-frontend is not installed")
if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (9, 0):
    pytest.skip("cudnn.flex_attention needs a GPU from Hopper on", allow_module_level=True)


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("window", [0, 40])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_equals_reference(dtype: torch.dtype, window: int, size: int) -> None:
    from trieline.kernels.gpu.cudnn_attention import cudnn_attention, plan_cudnn_attention

    ends = forest(300, seed=size)
    q, k, v = inputs = [
        random_tensor(1, 300, heads, size, dtype=dtype, seed=i).transpose(1, 2).requires_grad_()
        for i, heads in enumerate((4, 2, 2))
    ]
    plan = plan_cudnn_attention(path_intervals(ends, window=window), q, k, v)
    out = cudnn_attention(q, k, v, plan, scale=size**-0.5)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    want = reference_tree_attention(exact[0], exact[1], exact[2], ends, scale=size**-0.5, window=window)
    upstream = random_tensor(*out.shape, dtype=dtype, seed=9)
    gradients = torch.autograd.grad(out, inputs, upstream)
    wanted = torch.autograd.grad(want, exact, upstream.double())
    for got, expected in zip((out, *gradients), (want, *wanted), strict=True):
        assert relative_error(got, expected) < TOLERANCE[dtype]
