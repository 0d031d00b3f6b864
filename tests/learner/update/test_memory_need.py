"""What is told of a model's memory without a GPU, held against tensors that are there."""

import gc
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from trieline.kernels.token_logprob import DEFAULT_LOGITS_BUDGET
from trieline.learner.config import OptimizerConfig
from trieline.learner.update.memory_need import (
    CONTEXT_BYTES,
    MOMENT_BYTES,
    SIZES_ATTENTION,
    LiveBytes,
    serving_need,
    training_need,
)
from trieline.learner.update.optimizer import MasterOptimizer

SHAPE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
CONFIGS = {"llama": LlamaConfig(**SHAPE), "qwen3": Qwen3Config(**SHAPE, tie_word_embeddings=True)}
TOKENS = 96


def model_of(config: Any, dtype: torch.dtype, device: str = "cpu") -> Any:
    from_config: Any = AutoModelForCausalLM.from_config
    with torch.device(device):
        model = from_config(config, dtype=dtype, attn_implementation="eager").eval()
    model.set_attn_implementation(SIZES_ATTENTION)
    return model


def forward(model: Any, device: str = "cpu") -> Tensor:
    row = torch.zeros(1, TOKENS, dtype=torch.int64, device=device)
    hidden: Tensor = model.base_model(input_ids=row, position_ids=row, use_cache=False).last_hidden_state
    return hidden


def storages(tensors: list[Tensor]) -> int:
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_gradients_and_moments_are_those_of_the_optimizer(name: str, dtype: torch.dtype) -> None:
    model = model_of(CONFIGS[name], torch.float32)
    optimizer = MasterOptimizer(
        model.named_parameters(), OptimizerConfig(), total_steps=2, compute_dtype=dtype
    )
    optimizer.step(lr=0.0)
    parameters = list(model.parameters())
    buffers = storages(list(model.buffers()))
    moments = [t for t in optimizer.state_dict().values() if t.dtype == torch.float32]
    need = training_need(CONFIGS[name], tokens=TOKENS, dtype=dtype)
    assert need.parameters == sum(p.numel() for p in parameters)
    assert need.weights - buffers == storages([*parameters, *optimizer.masters().values()])
    assert need.gradients == storages([p.grad for p in parameters if p.grad is not None])
    assert need.moments == storages(moments) == MOMENT_BYTES * need.parameters


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_forward_keeps_is_what_autograd_saves(name: str, dtype: torch.dtype) -> None:
    model = model_of(CONFIGS[name], dtype)
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = forward(model)
    weights = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    expected = storages([t for t in saved if t.untyped_storage().data_ptr() not in weights])
    result = hidden.untyped_storage().nbytes()
    del hidden
    saved.clear()
    figures = []
    for device in ("cpu", "meta"):
        with LiveBytes() as live:
            other = model_of(CONFIGS[name], dtype, device)
            gc.collect()
            before = live.now
            hidden = forward(other, device)
            figures.append(live.now - before)
        del hidden
    assert figures == [expected + result] * 2


def test_the_most_grows_with_the_tokens_but_for_the_logits() -> None:
    config = CONFIGS["qwen3"]
    few, many, recomputed = (
        training_need(config, tokens=tokens, checkpointed=checkpointed)
        for tokens, checkpointed in ((4096, False), (8192, False), (8192, True))
    )
    of_tokens = [one.activations - DEFAULT_LOGITS_BUDGET for one in (few, many)]
    assert 1.9 < of_tokens[1] / of_tokens[0] < 2.0
    assert recomputed.activations < many.activations
    assert many.total > many.weights + many.gradients + many.moments + many.activations + CONTEXT_BYTES
    referenced = training_need(config, tokens=4096, with_reference=True)
    assert referenced.total - few.total == referenced.parameters * 2


def test_live_bytes_follow_what_is_made_and_dropped() -> None:
    with LiveBytes() as live:
        first = torch.empty(1000)
        view = first[10:].view(-1, 10)
        second = first + 1
        assert live.now == 8000
        del first
        assert live.now == 8000, "a view holds it"
        del view
        assert live.now == 4000
        del second
    assert (live.now, live.most) == (0, 8000)


def test_slots_of_a_policy_server_are_counted() -> None:
    config = CONFIGS["qwen3"]
    few, many = (serving_need(config, kv_tokens=count) for count in (0, 1000))
    assert many - few == 1000 * 2 * 3 * 2 * 16 * 2
