"""The lean decoder for the Llama family, Qwen2 and Qwen3: few, fused and prepacked products.

Query, key and value projection are one product, gate and up another; the weights lie in oneDNN's own layout
where it is to be had, which makes products of few rows up to twice as fast. The arithmetic is that of the
Hugging Face modules (RMS norm and rotary angles in float32, the rest in the compute precision).

Letters: T tokens, E model width, Q query heads, H key-value heads, D head width.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from trieline.learner.keeping.weight_file import expected_weights
from trieline.learner.model_folder.adapter_weights import LowRank, copied, side_by_side
from trieline.learner.policy_server.decoders.decoder import Attend
from trieline.learner.policy_server.decoders.kv_shape import KVShape
from trieline.learner.policy_server.decoders.packed_linear import PackedLinear
from trieline.learner.policy_server.decoders.step import Step

MODEL_TYPES = ("llama", "qwen2", "qwen3")
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
GATE_UP = ("mlp.gate_proj", "mlp.up_proj")
# Rotary kinds whose angles do not depend on the length of the sequence.
ROPE_TYPES = ("default", "linear", "llama3", "yarn")


def is_supported(config: Any) -> bool:
    """Whether this decoder computes just what the Hugging Face model of `config` does."""
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        config.model_type in MODEL_TYPES
        and config.hidden_act == "silu"
        and rope.get("rope_type", "default") in ROPE_TYPES
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    input_norm: Tensor
    qkv: PackedLinear
    qk_norm: Tensor | None
    """[Q + H, D] of Qwen3, the query heads' weight first."""
    out: PackedLinear
    mlp_norm: Tensor
    gate_up: PackedLinear
    down: PackedLinear


@dataclass(frozen=True, kw_only=True, slots=True)
class _Outer:
    embedding: Tensor
    norm: Tensor
    head: PackedLinear


class LlamaDecoder:
    """Takes its first weights and its rotary table from a Hugging Face model, and needs it no longer."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        config = model.config
        self.dtype = dtype
        self.vocab_size = int(config.vocab_size)
        self.max_positions = int(config.max_position_embeddings)
        self._query_heads = int(config.num_attention_heads)
        width = getattr(config, "head_dim", None) or config.hidden_size // self._query_heads
        self.kv_shape = KVShape(
            layers=int(config.num_hidden_layers),
            heads=int(config.num_key_value_heads),
            key_width=width,
            value_width=width,
        )
        self._scale = width**-0.5
        self._eps = float(config.rms_norm_eps)
        self.device: torch.device = model.get_output_embeddings().weight.device
        self._cos, self._sin = _rotary_table(model, self.max_positions, dtype)
        self.weights = expected_weights(model)
        state = model.state_dict()
        self._layers = tuple(self._layer(state, index) for index in range(self.kv_shape.layers))
        self._outer = self._outer_of(state)

    @torch.inference_mode()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        # A layer at a time: more than one of the new ones need not be there beside the old.
        for index, old in enumerate(self._layers):
            _take(old, self._layer(tensors, index))
        _take(self._outer, self._outer_of(tensors))

    @torch.inference_mode()
    def adapt(self, adapters: Mapping[str, LowRank]) -> bool:
        changed = False
        for index, layer in enumerate(self._layers):
            prefix = f"model.layers.{index}."
            for product, names in (
                (layer.qkv, QKV),
                (layer.out, ("self_attn.o_proj",)),
                (layer.gate_up, GATE_UP),
                (layer.down, ("mlp.down_proj",)),
            ):
                parts = [self._part(adapters, prefix + name) for name in names]
                changed |= product.adapt(side_by_side(parts))
        return changed

    def _part(self, adapters: Mapping[str, LowRank], name: str) -> LowRank | int:
        name = f"{name}.weight"
        if name in adapters:
            return copied(adapters[name], self.device, self.dtype)
        return self.weights.shapes[name][0]

    @torch.inference_mode()
    def forward(self, step: Step, attend: Attend) -> Tensor:
        outer = self._outer
        cos, sin = self._cos[step.positions, None], self._sin[step.positions, None]
        hidden = functional.embedding(step.token_ids, outer.embedding)
        for index, layer in enumerate(self._layers):
            attended = self._attend(index, layer, hidden, cos, sin, attend)
            if index == len(self._layers) - 1:
                # From here on only the tokens that are sampled after matter.
                attended, hidden = attended[step.sample_at], hidden[step.sample_at]
            hidden = layer.out(attended).add_(hidden)
            gate, up = layer.gate_up(self._norm(hidden, layer.mlp_norm)).chunk(2, -1)
            hidden = layer.down(functional.silu(gate).mul_(up)).add_(hidden)
        return outer.head(self._norm(hidden, outer.norm))

    def _attend(
        self, index: int, layer: _Layer, hidden: Tensor, cos: Tensor, sin: Tensor, attend: Attend
    ) -> Tensor:
        queries, heads = self._query_heads, self.kv_shape.heads
        qkv = layer.qkv(self._norm(hidden, layer.input_norm)).view(len(hidden), queries + 2 * heads, -1)
        qk = qkv[:, : queries + heads]
        if layer.qk_norm is not None:
            qk = self._norm(qk, layer.qk_norm)
        qk = _rotated(qk, cos, sin)
        query, key, value = qk[:, :queries], qk[:, queries:], qkv[:, queries + heads :]
        return attend(index, query, key, value, self._scale).flatten(1)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        wide = x.float()
        # Summed just as the learner's model does it: another order of the sum would round otherwise.
        scale = wide.pow(2).mean(-1, keepdim=True).add_(self._eps).rsqrt_()
        return (wide * scale).to(x.dtype).mul_(weight)

    # Copied: the file behind a mapped tensor may be gone tomorrow. (The products copy theirs.)

    def _layer(self, tensors: Mapping[str, Tensor], index: int) -> _Layer:
        def get(name: str) -> Tensor:
            return self._get(tensors, f"model.layers.{index}.{name}.weight")

        def linear(*names: str) -> PackedLinear:
            return self._linear(tensors, *(f"model.layers.{index}.{name}" for name in names))

        qk_norm = None
        if f"model.layers.{index}.self_attn.q_norm.weight" in tensors:
            query, key = (get(f"self_attn.{name}_norm") for name in "qk")
            qk_norm = torch.cat([query.expand(self._query_heads, -1), key.expand(self.kv_shape.heads, -1)])
        return _Layer(
            input_norm=get("input_layernorm").clone(),
            qkv=linear(*QKV),
            qk_norm=qk_norm,
            out=linear("self_attn.o_proj"),
            mlp_norm=get("post_attention_layernorm").clone(),
            gate_up=linear(*GATE_UP),
            down=linear("mlp.down_proj"),
        )

    def _outer_of(self, tensors: Mapping[str, Tensor]) -> _Outer:
        embedding = self._get(tensors, "model.embed_tokens.weight").clone()
        own_head = "lm_head.weight" in tensors
        return _Outer(
            embedding=embedding,
            norm=self._get(tensors, "model.norm.weight").clone(),
            head=PackedLinear(self._get(tensors, "lm_head.weight") if own_head else embedding, None),
        )

    def _linear(self, tensors: Mapping[str, Tensor], *names: str) -> PackedLinear:
        has_bias = f"{names[0]}.bias" in tensors
        bias = self._get(tensors, *(f"{name}.bias" for name in names)).clone() if has_bias else None
        return PackedLinear(self._get(tensors, *(f"{name}.weight" for name in names)), bias)

    def _get(self, tensors: Mapping[str, Tensor], *names: str) -> Tensor:
        parts = [tensors[name].to(self.device, self.dtype) for name in names]
        return torch.cat(parts) if len(parts) > 1 else parts[0]


def _take(old: _Layer | _Outer, new: _Layer | _Outer) -> None:
    """Take the numbers of `new` over in the memory of `old`, which a CUDA graph may know."""
    for field in dataclasses.fields(old):
        mine, other = getattr(old, field.name), getattr(new, field.name)
        if isinstance(mine, PackedLinear):
            mine.take(other)
        elif mine is not None:
            mine.copy_(other)


def _rotated(x_TQD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each number times its cosine, plus its partner in the other half times the entry of `sin`."""
    return (x_TQD * cos).add_(x_TQD.roll(x_TQD.shape[-1] // 2, -1).mul_(sin))


@torch.inference_mode()
def _rotary_table(model: Any, positions: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines [positions, D], the sines' first half negated: what the partner is multiplied by."""
    device = model.get_output_embeddings().weight.device
    like, places = torch.empty(0, dtype=dtype, device=device), torch.arange(positions, device=device)
    cos, sin = (table[0] for table in model.model.rotary_emb(like, places[None]))
    half = sin.shape[-1] // 2
    return cos, torch.cat((-sin[:, :half], sin[:, half:]), -1)
