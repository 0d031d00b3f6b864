"""Which decoder computes a model."""

from pathlib import Path
from typing import Any

import torch

from trieline.learner.errors import ModelRefusedError
from trieline.learner.model_folder.loading import load_causal_lm
from trieline.learner.policy_server.decoders.decoder import Decoder
from trieline.learner.policy_server.decoders.hf_decoder import ATTENTION_NAME, HFDecoder
from trieline.learner.policy_server.decoders.llama_decoder import LlamaDecoder, is_supported


def load_decoder(
    folder: Path, dtype: torch.dtype, *, fused: bool = True, device: torch.device | None = None
) -> Decoder:
    """The decoder of a Hugging Face folder: the lean one where the architecture is known to it, if `fused`.

    `device`: where it computes; None: the CPU.

    Raises:
        ModelSourceError: it can't be loaded whole.
        ModelRefusedError: the model's layers keep something else than keys and values of all tokens.
    """
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
