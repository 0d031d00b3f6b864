"""Arithmetic of a training step, and its share of what the machine could do (PaLM, appendix B: MFU).

Counted is what the gradient of every unique token needs and no more: 2 operations forward and 4 backward for
each weight of a layer and each token (2 where the weight is not trained), the output layer where a next token
was sampled, and attention between the pairs of tokens that see each other in a layer, within its window. What
is computed again to save memory does not count.
"""

import math
from collections import Counter

import torch

from trieline.learner.batch.batch import Batch
from trieline.learner.model.compute_dtype import CPU, matmul_seconds
from trieline.learner.model.tree_forward import TreeModel, layer_windows

# Rows, outputs and inputs of the product whose speed stands for the machine's peak.
PEAK_SHAPES = {"cpu": (1024, 1536, 576), "cuda": (8192, 8192, 8192)}


def step_flops(model: TreeModel, batch: Batch) -> float:
    """Forward and backward of one batch. Of a mixture of experts: as if all of them saw every token."""
    output = model.output_weight
    a_token, a_pair = _a_token(model), _a_pair(model)
    layers = Counter(_windows(model))
    total: float = sum(
        pack.trie.num_tokens * a_token
        + len(pack.rows) * _operations(output)
        + 6.0 * a_pair * sum(n * pack.trie.num_pairs_within(window) for window, n in layers.items())
        for pack in batch.packs
    )
    return total


def pair_cost(model: TreeModel) -> float:
    """What a pair of tokens on one path costs, in tokens of which each passes the whole model.

    As if there were no windows.
    """
    return 6.0 * _a_pair(model) * len(_windows(model)) / (_a_token(model) + _operations(model.output_weight))


def _a_token(model: TreeModel) -> float:
    embedding = model.hf_model.get_input_embeddings().weight
    outside = {id(model.output_weight), id(embedding)}
    inside = (p for p in model.hf_model.parameters() if p.ndim > 1 and id(p) not in outside)
    return sum(_operations(p) for p in inside)


def _a_pair(model: TreeModel) -> int:
    """Weights that would cost as much as a pair in one layer."""
    config = model.hf_model.config.get_text_config()
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_attention_heads * head_width)


def _windows(model: TreeModel) -> list[int]:
    return layer_windows(model.hf_model.config.get_text_config())


def _operations(weight: torch.nn.Parameter | torch.Tensor) -> float:
    """Of one token, forward and backward."""
    return (6.0 if weight.requires_grad else 4.0) * weight.numel()


def peak_flops(dtype: torch.dtype, device: torch.device = CPU) -> float:
    """Operations a second of a large product on `device`, or on this process's threads; measured now."""
    shape = PEAK_SHAPES[device.type]
    return 2.0 * math.prod(shape) / matmul_seconds(dtype, shape, device)
