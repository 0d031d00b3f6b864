"""The generic decoder: any Hugging Face decoder, its own layers, our cache in place of its attention."""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from trieline.learner.errors import ModelRefusedError
from trieline.learner.keeping.weight_file import expected_weights
from trieline.learner.model_folder.adapter_weights import LowRank, copied
from trieline.learner.policy_server.decoders.decoder import Attend
from trieline.learner.policy_server.decoders.kv_shape import KVShape
from trieline.learner.policy_server.decoders.step import Step

ATTENTION_NAME = "trieline_rows"

# Arguments by which a model asks for more than plain attention. Ignoring one would sample from another model.
UNSUPPORTED = ("softcap", "s_aux", "position_bias")


class HFDecoder:
    """Runs `model(...)` on the packed tokens of a step as if they were one long sequence."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self._model = model
        self.dtype = dtype
        self.device: torch.device = model.get_output_embeddings().weight.device
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])
        self.max_positions = int(getattr(model.config, "max_position_embeddings", 1 << 30))
        self.weights = expected_weights(model)
        self.kv_shape = _probe(model)
        self._hooks: list[Any] = []
        self._added: dict[str, LowRank] = {}

    @torch.inference_mode()
    def forward(self, step: Step, attend: Attend) -> Tensor:
        before = _attention.set(attend)
        try:
            return _logits(self._model, step.token_ids, step.positions, step.sample_at)
        finally:
            _attention.reset(before)

    @torch.inference_mode()
    def adapt(self, adapters: Mapping[str, LowRank]) -> bool:
        if self._added.keys() == adapters.keys() and all(
            self._added[name].takes(added) for name, added in adapters.items()
        ):
            return False
        for hook in self._hooks:
            hook.remove()
        self._added = {name: copied(added, self.device, self.dtype) for name, added in adapters.items()}
        self._hooks = [
            self._model.get_submodule(name.removesuffix(".weight")).register_forward_hook(_adding(added))
            for name, added in self._added.items()
        ]
        return True

    @torch.inference_mode()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        own = self._model.state_dict()
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def _adding(added: LowRank) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """What a linear layer calls after its own product."""
    return lambda module, inputs, output: output + added(inputs[0])


class _Probe:
    """Stands in for the attention of one forward at the start, to learn what the layers keep and see."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[int, int, int]] = {}
        self.windows: list[int] = []
        """Of each layer in turn, by what it asks for."""

    def __call__(
        self, layer: int, query_TQD: Tensor, key_THD: Tensor, value_THD: Tensor, scale: float
    ) -> Tensor:
        self.seen[layer] = (key_THD.shape[1], key_THD.shape[2], value_THD.shape[2])
        return query_TQD.new_zeros(*query_TQD.shape[:2], value_THD.shape[2])


_attention: ContextVar[Attend] = ContextVar("trieline_rows_attention")


def _rows_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The entry in transformers' attention interface. [1, heads, T, width] in, [1, T, heads, width] out."""
    for name in UNSUPPORTED:
        if kwargs.get(name) is not None:
            msg = f"{type(module).__name__} asks for {name}={kwargs[name]}; expected plain causal attention"
            raise ModelRefusedError(msg)
    attend = _attention.get()
    if isinstance(attend, _Probe):
        attend.windows.append(kwargs.get("sliding_window") or 0)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer = int(getattr(module, "layer_idx"))  # noqa: B009  (nn.Module types it as Tensor | Module)
    out = attend(layer, query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1), scale)
    return out[None], None


AttentionInterface.register(ATTENTION_NAME, _rows_attention)


@torch.inference_mode()
def _probe(model: Any) -> KVShape:
    probe = _Probe()
    before = _attention.set(probe)
    try:
        device = model.get_output_embeddings().weight.device
        two = torch.zeros(2, dtype=torch.int64, device=device)
        _logits(model, two, torch.arange(2, device=device), two[:1])
    finally:
        _attention.reset(before)
    name, layers = type(model).__name__, int(model.config.num_hidden_layers)
    shapes = set(probe.seen.values())
    if sorted(probe.seen) != list(range(layers)) or len(shapes) != 1:
        msg = (
            f"{name}: expected each of its {layers} layers to attend with keys and values of one shape, "
            f"got {len(probe.seen)} layers with {len(shapes)} shapes"
        )
        raise ModelRefusedError(msg)
    heads, key_width, value_width = shapes.pop()
    windows = tuple(probe.windows) if any(probe.windows) else ()
    return KVShape(layers=layers, heads=heads, key_width=key_width, value_width=value_width, windows=windows)


def _logits(model: Any, token_ids: Tensor, positions: Tensor, sample_at: Tensor) -> Tensor:
    out = model(
        input_ids=token_ids[None], position_ids=positions[None], use_cache=False, logits_to_keep=sample_at
    )
    logits: Tensor = out.logits[0]
    return logits
