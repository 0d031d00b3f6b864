"""A Hugging Face decoder run on tries: one forward over a forest's preorder, exact for every path.

The attention of all layers goes through transformers' attention interface under the name `ATTENTION_NAME`;
the plan of the pack travels as a keyword argument. Positions are depths. A model whose layers let a token
see anything but its own path is refused by name (`refuse_unsupported`), not silently trained wrong.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from trieline.common.arrays import Int32
from trieline.kernels.row_masks import RowMasks
from trieline.kernels.token_logprob import DEFAULT_LOGITS_BUDGET, cap_logits, token_logprob
from trieline.kernels.tree_attention import tree_attention
from trieline.kernels.tree_plan import TreeAttentionPlan, plan_tree_attention
from trieline.learner.batch.trie import Trie, build_trie
from trieline.learner.errors import ModelRefusedError
from trieline.learner.model.recurrence import ARGUMENTS, trie_arguments, why_not_on_tries
from trieline.learner.model.value_head import ValueHead
from trieline.learner.model_folder.loading import load_causal_lm

logger = logging.getLogger(__name__)

ATTENTION_NAME = "trieline_tree"

_WITHOUT_EFFECT = {
    "position_ids",
    "use_cache",
    "is_causal",
    "cache_position",
    "output_attentions",
    "output_router_logits",
}
"""Keywords of the attention interface that don't change what a tree's token sees."""


EXACT_LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of `layer_types` in which a token sees its own path alone, or the end of it."""


class TreeContext:
    """The plan of one forward pass, and what the layers that have used it have asked of it."""

    can_be_repeated = True
    """Whether layers may run again, in the backward."""

    def __init__(self, plan: TreeAttentionPlan) -> None:
        self.plan = plan
        self.windows: list[int] = []
        """Of each layer in turn; 0: none."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, softcap: float, window: int
    ) -> Tensor:
        """Attention of the next layer: query [1, H, T, D] to [1, T, H, D]."""
        return tree_attention(query, key, value, self.take_plan(window), scale=scale, softcap=softcap)

    def take_plan(self, window: int) -> TreeAttentionPlan:
        """That of the next layer."""
        self.windows.append(window)
        return self.plan.windowed(window) if window else self.plan


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    tree_context: TreeContext | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """`tree_attention` in the form that transformers calls: query [1, H, T, D] to [1, T, H, D]."""
    if tree_context is None:
        msg = f"{type(module).__name__} dropped the keyword tree_context on its way to the attention"
        raise ModelRefusedError(msg)
    known = _WITHOUT_EFFECT | set(ARGUMENTS)
    unsupported = {name: v for name, v in others.items() if name not in known and v is not None}
    if attention_mask is not None:
        unsupported["attention_mask"] = "a tensor"
    if dropout:
        unsupported["dropout"] = dropout
    if unsupported:
        listed = ", ".join(f"{name} ({_short(v)})" for name, v in sorted(unsupported.items()))
        msg = f"{type(module).__name__} asks its attention for {listed}, which is not exact on tries"
        raise ModelRefusedError(msg)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = sliding_window or 0
    return tree_context.attend(query, key, value, scale=scale, softcap=softcap or 0.0, window=window), None


AttentionInterface.register(ATTENTION_NAME, attend)


class TreeModel(nn.Module):
    """A decoder, and the value head if the objective needs one.

    Parameters below float32 get float32 gradients, so that packs and branches add up in float32.
    """

    def __init__(
        self, hf_model: Any, value_head: ValueHead | None = None, *, reproducible: bool = True
    ) -> None:
        """`hf_model` may carry LoRA adapters of peft; `reproducible` as in `plan_tree_attention`."""
        super().__init__()
        self.reproducible = reproducible
        hf_model = _without_peft(hf_model)
        refuse_unsupported(hf_model)
        hf_model.set_attn_implementation(ATTENTION_NAME)
        kinds = getattr(hf_model.config.get_text_config(), "layer_types", None) or ()
        self.is_recurrent = bool(set(kinds) - EXACT_LAYERS)
        # No dropout: the gradient is that of the policy which sampled.
        self.hf_model = hf_model.eval()
        self.value_head = value_head
        self.computes_in: torch.dtype | None = None
        """None: in the precision that its weights have between two passes."""
        for parameter in self.parameters():
            if parameter.dtype in (torch.bfloat16, torch.float16):
                parameter.grad_dtype = torch.float32
        refuse_inexact(self)

    @property
    def name(self) -> str:
        return model_name(self.hf_model)

    @property
    def dtype(self) -> torch.dtype:
        return self.computes_in or self.output_weight.dtype

    @property
    def output_softcap(self) -> float:
        """Logits l become softcap * tanh(l / softcap); 0: they stay."""
        return getattr(self.hf_model.config.get_text_config(), "final_logit_softcapping", None) or 0.0

    @property
    def device(self) -> torch.device:
        return self.output_weight.device

    @property
    def output_weight(self) -> Tensor:
        """[V, D]; often the embedding itself."""
        weight: Tensor = self.hf_model.get_output_embeddings().weight
        return weight

    def hidden_states(self, trie: Trie) -> Tensor:
        """[N, D] of every token of `trie`, after the last norm."""
        return self.run(trie.token_ids, trie.position, TreeContext(self.plan(trie.subtree_end)))

    def plan(self, subtree_end: Int32, *, num_above: int = 0) -> TreeAttentionPlan:
        """What the attention of a forward pass needs to know of tokens with these subtrees, below others."""
        ends = torch.from_numpy(subtree_end).to(self.device)
        return plan_tree_attention(
            ends, dtype=self.dtype, reproducible=self.reproducible, num_above=num_above
        )

    def run(self, token_ids: Int32, positions: Int32, context: TreeContext) -> Tensor:
        """[T, D] of `token_ids` [T] at `positions` [T], after the last norm; `context` is used up."""
        output = self.forward_row(self.hf_model.base_model, token_ids, positions, context)
        self._expect_all_layers(context)
        hidden: Tensor = output.last_hidden_state
        return hidden[0]

    def forward_row(self, part: Any, token_ids: Int32, positions: Int32, context: TreeContext) -> Any:
        """What the model, or a part of it that takes tokens, says of a trie's tokens, as transformers has it.

        Raises:
            ModelRefusedError: a segment of a trie below others, for recurrent layers.
        """
        arguments = {}
        if self.is_recurrent:
            if not context.can_be_repeated:
                self.expect_depth_first()
            arguments = trie_arguments(context.plan.subtree_end)
        return part(
            input_ids=self._row(token_ids),
            position_ids=self._row(positions),
            use_cache=False,
            tree_context=context,
            **arguments,
        )

    def expect_depth_first(self) -> None:
        """Raise ModelRefusedError if a trie can't be computed in segments."""
        if self.is_recurrent:
            msg = (
                f"{self.name}: a trie of more than learner.max_tokens unique tokens runs depth-first, "
                "which recurrent layers can't: raise max_tokens, or train on shorter episodes"
            )
            raise ModelRefusedError(msg)

    def logprobs(
        self,
        hidden: Tensor,
        target_rows: Tensor,
        target_ids: Tensor,
        *,
        temperature: float,
        masks: RowMasks | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities [U] of the targets and entropies [R], from `hidden` [R, D] and its masks."""
        return token_logprob(
            hidden,
            self.output_weight,
            target_rows.to(self.device),
            target_ids.to(self.device),
            temperature=temperature,
            softcap=self.output_softcap,
            logits_budget=DEFAULT_LOGITS_BUDGET,
            masks=masks,
        )

    def _row(self, column: Int32) -> Tensor:
        return torch.from_numpy(column.astype(np.int64))[None].to(self.device)

    def _expect_all_layers(self, context: TreeContext) -> None:
        config = self.hf_model.config.get_text_config()
        windows, found = layer_windows(config), context.windows
        if len(found) != len(windows):
            msg = f"{self.name}: expected tree attention in {len(windows)} layers, got it in {len(found)}"
            raise ModelRefusedError(msg)
        if windows != found:
            msg = f"{self.name}: expected layers with windows of {windows} tokens (0: none), got {found}"
            raise ModelRefusedError(msg)


def load_tree_model(
    folder: Path,
    dtype: torch.dtype,
    with_value_head: bool,
    *,
    reproducible: bool = True,
    device: torch.device | None = None,
) -> TreeModel:
    """Load a Hugging Face folder. `device`: where it is to compute, and where that is seen; None: the CPU.

    Raises:
        ModelRefusedError: it can't be trained exactly on tries.
        ModelSourceError: it can't be loaded whole.
    """
    hf_model = load_causal_lm(folder, dtype).to(device)
    hidden_size = hf_model.config.get_text_config().hidden_size
    value_head = ValueHead(hidden_size, dtype=dtype).to(device) if with_value_head else None
    return TreeModel(hf_model, value_head, reproducible=reproducible)


def model_name(hf_model: Any) -> str:
    """How messages call a model."""
    path = getattr(hf_model.config, "_name_or_path", "")
    return f"{type(hf_model).__name__} {path}".strip()


def refuse_unsupported(hf_model: Any) -> None:
    """Raise ModelRefusedError for what the configuration says is not exact on tries."""
    name, config = model_name(hf_model), hf_model.config.get_text_config()
    reason = None
    layer_types = set(getattr(config, "layer_types", None) or ()) - EXACT_LAYERS
    # Models with recurrent layers do not say so of their attention; that it was replaced is seen later.
    if not layer_types and not getattr(hf_model, "_supports_attention_backend", False):
        reason = "its attention can't be replaced (no attention backend support)"
    elif getattr(hf_model.config, "is_encoder_decoder", False):
        reason = "it is an encoder-decoder"
    elif layer_types and (why := why_not_on_tries(hf_model)):
        reason = (
            f"it has layers of type {', '.join(sorted(layer_types))}; "
            f"only {' and '.join(sorted(EXACT_LAYERS))} are exact by themselves; {why}"
        )
    elif getattr(config, "use_bidirectional_attention", False):
        reason = "its tokens see those after them (use_bidirectional_attention)"
    elif rope := _length_dependent_rope(config):
        reason = f"its rotary frequencies depend on the length of a sequence (rope type {rope})"
    elif getattr(config, "output_router_logits", False):
        reason = (
            "output_router_logits asks for an auxiliary loss of the router, which would count a shared token "
            "once; set it to false to train without"
        )
    elif hf_model.get_output_embeddings() is None:
        reason = "it has no output embedding"
    elif getattr(hf_model.get_output_embeddings(), "bias", None) is not None:
        reason = "its output embedding has a bias"
    if reason:
        msg = f"{name} can't be trained on tries: {reason}"
        raise ModelRefusedError(msg)


def layer_windows(config: Any) -> list[int]:
    """How many tokens of its path, itself among them, a token sees in each layer that attends.

    By the text configuration.

    0: all of them.
    """
    window = getattr(config, "sliding_window", None) or 0
    if layer_types := getattr(config, "layer_types", None):
        attends = [kind for kind in layer_types if kind in EXACT_LAYERS]
        return [window if kind == "sliding_attention" else 0 for kind in attends]
    slides = window if getattr(config, "use_sliding_window", True) else 0
    return [slides] * config.num_hidden_layers


def _without_peft(hf_model: Any) -> Any:
    """The decoder in which peft has put its adapters; what it does outside of the layers is refused."""
    if not hasattr(hf_model, "peft_config"):
        return hf_model
    for config in hf_model.peft_config.values():
        if config.is_prompt_learning:
            msg = (
                f"{model_name(hf_model)} can't be trained on tries: {type(config).__name__} puts tokens "
                "before the prompt; only adapters inside the layers (LoRA) are exact"
            )
            raise ModelRefusedError(msg)
    return hf_model.get_base_model()


def _length_dependent_rope(config: Any) -> str | None:
    """The type of rotary embedding that computes other frequencies for longer inputs, if there is one."""
    parameters = getattr(config, "rope_parameters", None) or {}
    each = parameters.values() if all(isinstance(p, dict) for p in parameters.values()) else [parameters]
    types = {str(p.get("rope_type")) for p in each if p}
    return next(iter(sorted(types & {"dynamic", "longrope"})), None)


@torch.no_grad()
def refuse_inexact(model: TreeModel) -> None:
    """Run eight tokens and raise ModelRefusedError if branches see each other or logits are not linear.

    Catches what no configuration tells: convolutions and recurrences between tokens, routing by capacity,
    logits that are scaled after the output weight.
    """
    trie = build_trie([_ids(1, 2, 3, 4), _ids(1, 2, 5, 6), _ids(1, 7)])
    other = build_trie([_ids(1, 2, 3, 4), _ids(1, 2, 9, 8), _ids(1, 10)])
    kept = torch.from_numpy(trie.paths[0].astype(np.int64)).to(model.device)
    hidden = model.hidden_states(trie)
    if not _agree(hidden[kept], model.hidden_states(other)[kept], model.hf_model.config.get_text_config()):
        msg = f"{model.name} can't be trained on tries: a token changes the hidden states of other branches"
        raise ModelRefusedError(msg)
    context = TreeContext(model.plan(trie.subtree_end))
    logits = model.forward_row(model.hf_model, trie.token_ids, trie.position, context).logits[0]
    expected = cap_logits(functional.linear(hidden, model.output_weight), model.output_softcap)
    if not torch.allclose(logits.float(), expected.float(), rtol=1e-2, atol=1e-3):
        msg = f"{model.name} can't be trained on tries: its logits are not linear in the hidden states"
        raise ModelRefusedError(msg)


def _agree(hidden: Tensor, other: Tensor, config: Any) -> bool:
    """Bit for bit; but an expert's product of more or fewer tokens may sum in another order."""
    if getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None):
        tolerance = torch.finfo(hidden.dtype).eps ** 0.5
        return bool((hidden - other).abs().max() <= tolerance * hidden.abs().max())
    return torch.equal(hidden, other)


def _ids(*ids: int) -> Int32:
    return np.array(ids, np.int32)


def _short(value: object) -> str:
    return "a tensor" if isinstance(value, Tensor) else repr(value)
