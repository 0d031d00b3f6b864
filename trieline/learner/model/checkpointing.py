"""Layers that keep their input alone, and compute the rest again in the backward (arXiv 1604.06174).

The activations of a pack are then those of one layer and an input each of the others, for one more forward.
The same operations run again on the same numbers, so gradients are the same.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from trieline.learner.errors import ModelRefusedError
from trieline.learner.model.tree_forward import TreeModel


def checkpoint_layers(model: TreeModel) -> None:
    """Let the layers of `model` keep their inputs alone.

    Raises:
        ModelRefusedError: it has no layers of the kind that transformers computes again.
    """
    layers = [m for m in model.hf_model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        msg = f"{model.name} has no layers that can be computed again: remove learner.gradient_checkpointing"
        raise ModelRefusedError(msg)
    for layer in layers:
        layer.forward = functools.partial(_computed_again, layer.forward)


def _computed_again(forward: Callable[..., Any], *inputs: Any, **settings: Any) -> Any:
    context = settings.get("tree_context")
    # A segment of a trie beyond the budget has no more activations than that, and its keys and values are
    # taken down as it runs.
    if not torch.is_grad_enabled() or context is None or not context.can_be_repeated:
        return forward(*inputs, **settings)
    return checkpoint(
        functools.partial(forward, **settings), *inputs, use_reentrant=False, preserve_rng_state=False
    )
