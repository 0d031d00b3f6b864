"""Tiny decoders with random weights, in pairs: one for the tries, one that runs plain sequences."""

import copy
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from trieline.learner.model.float64_parts import Roundings, use_float64, use_plain_attention
from trieline.learner.model.tree_forward import TreeModel
from trieline.learner.model.value_head import ValueHead

VOCAB_SIZE = 40
WINDOW = 6
"""Tokens; shorter than the paths of the tests."""

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
    # The last layer over a window.
    "qwen2": lambda: Qwen2ForCausalLM(
        Qwen2Config(
            **_SHAPE,
            tie_word_embeddings=False,
            use_sliding_window=True,
            sliding_window=WINDOW,
            max_window_layers=1,
        )
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_SHAPE, tie_word_embeddings=True)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**_SHAPE, sliding_window=WINDOW)),
    # Gemma's norms, scales and caps, tight enough to bend the numbers; one layer of each kind.
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(
            **_SHAPE,
            layer_types=["sliding_attention", "full_attention"],
            sliding_window=WINDOW,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=3.0,
        )
    ),
    # Norms of queries and keys, and other rotary angles in layers over a window.
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **_SHAPE,
            layer_types=["sliding_attention", "full_attention"],
            sliding_window=WINDOW,
            query_pre_attn_scalar=16,
        )
    ),
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**_SHAPE, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2)
    ),
}


def tiny_hf_model(architecture: str = "llama", *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = ARCHITECTURES[architecture]().to(dtype).eval()
    if dtype == torch.float64:
        use_float64(model)
        use_plain_attention(model)
        with Roundings() as roundings:
            model(input_ids=torch.arange(8)[None], use_cache=False)
        assert not roundings.seen, "a part keeps rounding to float32"
    return model


def tiny_pair(
    architecture: str = "llama", *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[TreeModel, Any]:
    """A tree model with a value head of random weights, and a plain model with the same weights."""
    plain = tiny_hf_model(architecture, dtype=dtype, seed=seed)
    use_plain_attention(plain)
    head = ValueHead(_SHAPE["hidden_size"], dtype=dtype)
    torch.nn.init.normal_(head.linear.weight, std=0.3)
    torch.nn.init.normal_(head.linear.bias)
    return TreeModel(copy.deepcopy(plain), head), plain
