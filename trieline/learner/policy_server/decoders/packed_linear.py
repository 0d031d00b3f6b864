"""A matrix product whose weight lies in the layout that the CPU's kernels read fastest."""

import torch
from torch import Tensor
from torch.nn import functional

from trieline.learner.model_folder.adapter_weights import LowRank

# Below this many numbers the packed product's own overhead is more than what it saves.
SMALLEST_PACKED = 64 * 1024


class PackedLinear:
    """y = x W^T + b, and what adapters add, for x [T, in].

    In bfloat16 bit for bit what `torch.nn.functional.linear` gives.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Copies the weight on a CPU, where it may lie in a mapped file, but not the bias."""
        self._packed = is_packable(weight)
        if self._packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        else:
            self._weight = weight.clone() if weight.device.type == "cpu" else weight
        self._bias = bias
        self._added: LowRank | None = None

    def __call__(self, x: Tensor) -> Tensor:
        y = self._product(x)
        return y if self._added is None else y.add_(self._added(x))

    def adapt(self, added: LowRank | None) -> bool:
        """Compute this beside the weight. False: in the memory of what was there, which CUDA graphs know."""
        if self._added is not None and added is not None and self._added.takes(added):
            return False
        changed = not (self._added is None and added is None)
        self._added = added
        return changed

    def _product(self, x: Tensor) -> Tensor:
        if not self._packed:
            return functional.linear(x, self._weight, self._bias)
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return y

    def take(self, other: "PackedLinear") -> None:
        """Take over another's numbers, of the same shapes: in the memory that is there, unless packed."""
        if self._packed:
            self._weight = other._weight
        else:
            self._weight.copy_(other._weight)
        if self._bias is not None:
            assert other._bias is not None, "weights of one model have the same biases"
            self._bias.copy_(other._bias)


def is_packable(weight: Tensor) -> bool:
    """Whether oneDNN has kernels for this weight here."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if weight.device.type != "cpu" or not available or weight.numel() < SMALLEST_PACKED:
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
