"""A model as the engine sees it: one forward over a packed step, and weights that can change in between."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from trieline.learner.errors import ModelRefusedError
from trieline.learner.keeping.weight_file import ExpectedWeights
from trieline.learner.model_folder.adapter_weights import LowRank
from trieline.learner.model_folder.loading import load_causal_lm
from trieline.learner.policy_server.decoders.kv_shape import KVShape
from trieline.learner.policy_server.decoders.step import Step

Attend = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]
"""Of a layer: its number, queries [T, Q, D], keys and values [T, H, D] of the step's tokens, and the scale of
the scores. Stores the keys and values, and gives [T, Q, D]: each token looks at all of its sequence, or in
layers with a window (`KVShape.windows`) at the end of it."""


class Decoder(Protocol):
    """What the engine needs of a model."""

    kv_shape: KVShape
    dtype: torch.dtype
    device: torch.device
    vocab_size: int
    max_positions: int
    """Longest sequence that the model was made for."""
    weights: ExpectedWeights
    """What `load` takes."""

    def forward(self, step: Step, attend: Attend) -> Tensor:
        """Logits [S, V] in the compute precision, after the tokens of `step.sample_at`."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over these weights (named as in the Hugging Face state dict, checked before).

        On a GPU into the memory of the old ones, which a CUDA graph knows.
        """
        ...

    def adapt(self, adapters: Mapping[str, LowRank]) -> bool:
        """Compute with these beside the weights of their names, and with no others; checked before.

        Returns whether a forward does something else from now on than with other numbers what it did.
        """
        ...


def load_decoder(
    folder: Path, dtype: torch.dtype, *, fused: bool = True, device: torch.device | None = None
) -> Decoder:
    """The decoder of a Hugging Face folder: the lean one where the architecture is known to it, if `fused`.

    `device`: where it computes; None: the CPU.

    Raises:
        ModelSourceError: it can't be loaded whole.
        ModelRefusedError: the model's layers keep something else than keys and values of all tokens.
    """
    from trieline.learner.policy_server.decoders.hf_decoder import ATTENTION_NAME, HFDecoder
    from trieline.learner.policy_server.decoders.llama_decoder import LlamaDecoder, is_supported

    model = load_causal_lm(folder, dtype, attn_implementation=ATTENTION_NAME).to(device)
    model.requires_grad_(False)
    _refuse_partial_layers(model.config, folder)
    if fused and is_supported(model.config):
        return LlamaDecoder(model, dtype)
    return HFDecoder(model, dtype)


def _refuse_partial_layers(config: Any, folder: Path) -> None:
    kinds = set(getattr(config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}
    if kinds:
        listed = ", ".join(sorted(kinds))
        msg = (
            "expected a model with full and sliding attention only, "
            f"the one in {folder} has layers of kind {listed}"
        )
        raise ModelRefusedError(msg)
