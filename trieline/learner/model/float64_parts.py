"""Parts of transformers' decoders that round to float32, in the precision of their input.

For comparisons in float64: the same formulas, without the rounding that would hide small errors.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface

from trieline.kernels.tree_attention import attend_visible

PLAIN_ATTENTION = "trieline_plain"


class Float64Norm(nn.Module):
    """RMSNorm (arXiv 1910.07467, eq. 4), with the weight counted from 0 or, as Gemma has it, from 1."""

    def __init__(self, weight: nn.Parameter, eps: float, offset: float) -> None:
        super().__init__()
        self.weight, self.eps, self.offset = weight, eps, offset

    def forward(self, hidden: Tensor) -> Tensor:
        normed = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.eps)
        return (self.offset + self.weight) * normed


class Float64Router(nn.Module):
    """Top-k routing of Qwen3-MoE and its kin: logits, the weights of the experts chosen, and which."""

    def __init__(self, router: Any) -> None:
        super().__init__()
        self.weight, self.top_k, self.norm_topk_prob = router.weight, router.top_k, router.norm_topk_prob

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = functional.linear(hidden.reshape(-1, hidden.shape[-1]), self.weight)
        weights, experts = logits.softmax(-1).topk(self.top_k, dim=-1)
        if self.norm_topk_prob:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return logits, weights, experts


def plain_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Causal attention of rows without padding: [B, H, T, D] to [B, T, H, D]."""
    assert mask is None
    causal = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool, device=query.device).tril()
    if window := settings.get("sliding_window"):
        causal = causal.triu(1 - window)
    scale, softcap = settings.get("scaling"), settings.get("softcap")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return attend_visible(query, key, value, causal, scale=scale, softcap=softcap or 0.0), None


AttentionInterface.register(PLAIN_ATTENTION, plain_attention)


def use_plain_attention(hf_model: Any) -> None:
    """transformers' own attention; ours where its only exact one rounds to float32 (`eager`)."""
    caps = getattr(hf_model.config.get_text_config(), "attn_logit_softcapping", None)
    hf_model.set_attn_implementation("sdpa" if hf_model._supports_sdpa and not caps else PLAIN_ATTENTION)


class Roundings(TorchFunctionMode):
    """Whether what a float64 model computes goes through fewer digits on the way, inside the block.

    What needs no gradient (tables of rotary angles) is a constant, the same in every way of computing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.requires_grad and out.is_floating_point():
            self.seen |= out.dtype != torch.float64
        return out


def use_float64(model: Any) -> None:
    """Replace the parts of a float64 model that round, where they are of a kind that is known here."""
    if getattr(model.config, "_experts_implementation", None) is not None:
        # The grouped products take no float64.
        model.set_experts_implementation("eager")
    for module in list(model.modules()):
        for name, child in module.named_children():
            kind = type(child).__name__
            if not kind.endswith(("Norm", "Router")):
                continue
            exact = _exact_part(child)
            if exact is not None:
                setattr(module, name, exact)


@torch.no_grad()
def _exact_part(part: Any) -> nn.Module | None:
    """What computes the same up to float32's rounding, tried on random numbers."""
    if type(part).__name__.endswith("TopKRouter") and hasattr(part, "norm_topk_prob"):
        return Float64Router(part)
    eps = getattr(part, "variance_epsilon", getattr(part, "eps", None))
    weight = getattr(part, "weight", None)
    if not type(part).__name__.endswith("RMSNorm") or eps is None or weight is None:
        return None
    probe = torch.randn(4, len(weight), dtype=weight.dtype, generator=torch.Generator().manual_seed(0))
    for offset in (0.0, 1.0):
        candidate = Float64Norm(weight, eps, offset)
        if torch.allclose(candidate(probe), part(probe), rtol=1e-5, atol=1e-6):
            return candidate
    return None
