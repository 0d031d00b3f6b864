"""What training a model takes of a GPU's memory, found out without one.

One forward and backward of a pack runs on torch's `meta` device: every tensor has its size and no memory, and
the sizes of those that are alive at once are added up. Attention and head are stood in for by what their
kernels keep and take. So the figures follow whatever a model's own code does; what no tensor tells (the
context of CUDA, gaps between blocks) comes as a share on top.

Letters: T tokens, H query heads, D model width, V vocabulary, R rows of the head.
"""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AutoModelForCausalLM

from trieline.kernels.token_logprob import DEFAULT_LOGITS_BUDGET
from trieline.learner.config import OptimizerConfig
from trieline.learner.update.eight_bit import moment_bytes
from trieline.learner.update.optimizer import MasterOptimizer

META = torch.device("meta")
SIZES_ATTENTION = "trieline_sizes"
MOMENT_BYTES = 8
"""AdamW's two moments of a number, in float32."""
CONTEXT_BYTES = 1 << 30
"""Of a process that computes on a GPU: CUDA's context, cuBLAS, kernels."""
GAPS = 0.05
"""Share of tensors' memory that blocks of other sizes leave unused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryNeed:
    """Bytes of a training process at its largest, by what they are for."""

    parameters: int
    """Their number."""
    weights: int
    """As the model computes with them, and the float32 masters."""
    gradients: int
    moments: int
    reference: int
    """Of the model that the KL term compares with; 0: there is none."""
    activations: int
    """The most that a forward and backward of one pack take beyond the above."""
    overhead: int
    """What no tensor tells."""

    @property
    def total(self) -> int:
        return (
            self.weights + self.gradients + self.moments + self.reference + self.activations + self.overhead
        )


def training_need(
    config: Any,
    *,
    tokens: int,
    dtype: torch.dtype = torch.bfloat16,
    checkpointed: bool = False,
    with_reference: bool = False,
    eight_bit: bool = False,
) -> MemoryNeed:
    """Of a model by its Hugging Face `config`, with packs of `tokens` unique tokens.

    `checkpointed`: layers keep their inputs alone and are computed again in the backward.
    `eight_bit`: moments are kept in 8 bits.
    """
    with LiveBytes() as live:
        model, optimizer = _model_on_meta(config, dtype)
        held = live.now
        _run_pack(model, tokens, checkpointed=checkpointed)
        most = live.most
    count = sum(p.numel() for p in model.parameters())
    gradients = optimizer._grad.numel() * 4
    weights = held - gradients
    moments = MOMENT_BYTES * count
    if eight_bit:
        moments = sum(moment_bytes(p.numel()) for p in model.parameters())
    tensors = most + moments
    return MemoryNeed(
        parameters=count,
        weights=weights,
        gradients=gradients,
        moments=moments,
        reference=count * dtype.itemsize if with_reference else 0,
        activations=most - held,
        overhead=CONTEXT_BYTES + int(GAPS * tensors),
    )


def serving_need(config: Any, *, kv_tokens: int, dtype: torch.dtype = torch.bfloat16) -> int:
    """Bytes of a policy server on a GPU with `kv_tokens` slots."""
    text = config.get_text_config()
    with LiveBytes() as live:
        model = _decoder(config, dtype)
        held = live.now
    del model
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    cache = 2 * text.num_hidden_layers * heads * width * dtype.itemsize * (kv_tokens + 1)
    # Draws are made of 128 MiB of logits at a time, in some tensors of that size.
    return int(held + cache + CONTEXT_BYTES + (1 << 30))


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the tensors that were made inside and are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.most = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self._see(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        return out

    def _see(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage in self._known:
                continue
            self._known.add(storage)
            size = storage.nbytes()
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._forget, size)

    def _forget(self, size: int) -> None:
        self.now -= size


def _decoder(config: Any, dtype: torch.dtype) -> Any:
    from_config: Any = AutoModelForCausalLM.from_config  # without annotations
    with META:
        model = from_config(config, dtype=dtype, attn_implementation="eager")
    return model.eval()


def _model_on_meta(config: Any, dtype: torch.dtype) -> tuple[Any, MasterOptimizer]:
    model = _decoder(config, dtype)
    model.set_attn_implementation(SIZES_ATTENTION)
    optimizer = MasterOptimizer(
        model.named_parameters(), OptimizerConfig(), total_steps=1, compute_dtype=dtype
    )
    return model, optimizer


def _run_pack(model: Any, tokens: int, *, checkpointed: bool) -> None:
    if checkpointed:
        for layer in model.base_model.layers:
            _recompute(layer)
    row = torch.empty(1, tokens, dtype=torch.int64, device=META)
    hidden = model.base_model(input_ids=row, position_ids=row, use_cache=False).last_hidden_state[0]
    head: Any = _HeadSizes.apply
    logprobs = head(hidden[row[0]], model.get_output_embeddings().weight)
    logprobs.sum().backward()


def _recompute(layer: Any) -> None:
    forward = layer.forward

    def again(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    layer.forward = again


class _AttentionSizes(torch.autograd.Function):
    """Keeps what the kernel keeps: its operands, its result, and one float32 a row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
        lse = query.new_empty(query.shape[1], query.shape[2], dtype=torch.float32)
        ctx.save_for_backward(query.contiguous(), key.contiguous(), value.contiguous(), out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        query, key, value, _, lse = ctx.saved_tensors
        # Keys that very many queries see get their gradients in parts.
        parts = [torch.empty_like(one, dtype=torch.float32) for one in (key, value)]
        delta = torch.empty_like(lse)
        del parts, delta
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


class _HeadSizes(torch.autograd.Function):
    """Takes what the head takes: logits within the budget, gradients of rows and of the whole weight."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        logits = hidden.new_empty(DEFAULT_LOGITS_BUDGET, dtype=torch.uint8)
        del logits
        return hidden.new_empty(len(hidden), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        hidden, weight = ctx.saved_tensors
        logits = hidden.new_empty(DEFAULT_LOGITS_BUDGET, dtype=torch.uint8)
        sums = [torch.empty_like(hidden, dtype=torch.float32) for _ in range(2)]
        grad_weight = torch.empty_like(weight)
        del logits, sums
        return torch.empty_like(hidden), grad_weight


def _attend_sizes(
    module: Any, query: Tensor, key: Tensor, value: Tensor, *others: Any, **settings: Any
) -> tuple[Tensor, None]:
    keep: Any = _AttentionSizes.apply
    return keep(query, key, value), None


AttentionInterface.register(SIZES_ATTENTION, _attend_sizes)
