"""Tiny decoders with random weights, in pairs: one for the tries, one that runs plain sequences."""

import copy
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from trieline.learner.tree_forward import TreeModel
from trieline.learner.value_head import ValueHead

VOCAB_SIZE = 40

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    # Wide enough that the tiny model has opinions: the ratios pi/mu then straddle every clip.
    "initializer_range": 0.3,
}
ARCHITECTURES: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SHAPE, tie_word_embeddings=True)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_SHAPE, tie_word_embeddings=False)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_SHAPE, tie_word_embeddings=True)),
}


class Float64Norm(torch.nn.Module):
    """RMSNorm in the precision of its input; transformers' own rounds to float32 on the way."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.eps)
        scaled: torch.Tensor = self.weight * hidden * scale
        return scaled


def tiny_hf_model(architecture: str = "llama", *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = ARCHITECTURES[architecture]().to(dtype).eval()
    if dtype == torch.float64:
        for module in list(model.modules()):
            for name, child in module.named_children():
                if type(child).__name__.endswith("RMSNorm"):
                    setattr(module, name, Float64Norm(child))
    return model


def tiny_pair(
    architecture: str = "llama", *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[TreeModel, Any]:
    """A tree model with a value head of random weights, and a plain model with the same weights."""
    plain = tiny_hf_model(architecture, dtype=dtype, seed=seed)
    plain.set_attn_implementation("sdpa")
    head = ValueHead(_SHAPE["hidden_size"], dtype=dtype)
    torch.nn.init.normal_(head.linear.weight, std=0.3)
    torch.nn.init.normal_(head.linear.bias)
    return TreeModel(copy.deepcopy(plain), head), plain
