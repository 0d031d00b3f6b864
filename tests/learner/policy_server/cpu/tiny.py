"""Small models with random weights, engines over them, and what the plain Hugging Face forward says."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
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
)

from trieline.common.arrays import Int32
from trieline.learner.policy_server.batching.engine import BatchingEngine
from trieline.learner.policy_server.batching.grammars import Grammars
from trieline.learner.policy_server.batching.stop_text import Decode
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.cpu.cpu_engine import CpuEngine
from trieline.learner.policy_server.decoders.choose_decoder import load_decoder
from trieline.wire.messages import Completion, GenerateRequest, Sampling

VOCAB = 300
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    # Wide, so that the distributions are far from uniform and every mistake shows.
    "initializer_range": 0.2,
}
FAMILIES: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=True)),
    # One layer of each kind over windows shorter than the prompts, with rotary angles of their own.
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **SHAPE,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            sliding_window=7,
        )
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=20)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=True)),
}


def save_model(folder: Path, family: str = "qwen3", *, seed: int = 0) -> Path:
    """A Hugging Face folder with random weights, norms and biases included."""
    torch.manual_seed(seed)
    model = FAMILIES[family]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def tiny_engine(
    folder: Path,
    *,
    fused: bool = True,
    version: int = 0,
    decode: Decode | None = None,
    grammars: Grammars | None = None,
    **limits: Any,
) -> CpuEngine:
    config = PolicyServerConfig(**limits)
    decoder = load_decoder(folder, torch.float32, fused=fused)
    return CpuEngine(decoder, config, policy_version=version, decode=decode, grammars=grammars)


def random_prompt(seed: int, length: int) -> Int32:
    return np.random.default_rng(seed).integers(0, VOCAB, length).astype(np.int32)


def request(number: int, prompt: Int32, **sampling: Any) -> GenerateRequest:
    return GenerateRequest(request_id=number, prompt=prompt, sampling=Sampling(**sampling))


def drain(engine: BatchingEngine) -> dict[int, Completion]:
    """Step until all is answered."""
    answers = {}
    while engine.busy:
        for finished in engine.step():
            answers[finished.ticket[1]] = finished.completion
    return answers


def generate(engine: BatchingEngine, *requests: GenerateRequest) -> list[Completion]:
    """All of them at once, answers in the order of the requests."""
    for one in requests:
        engine.submit(b"peer", one)
    answers = drain(engine)
    return [answers[one.request_id] for one in requests]


@functools.cache
def _plain_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def plain_logprobs(folder: Path, tokens: Int32) -> torch.Tensor:
    """[T, V] float32 of one plain forward: row t is the distribution of token t + 1."""
    model = _plain_model(folder)
    with torch.inference_mode():
        logits = model(torch.from_numpy(tokens.astype(np.int64))[None]).logits[0]
    return torch.log_softmax(logits, -1)


def expect_plain(folder: Path, prompt: Int32, completion: Completion, tolerance: float = 1e-4) -> None:
    """The completion's log-probabilities and entropies are those of a plain forward over all its tokens."""
    tokens = np.concatenate([prompt, completion.token_ids])
    logprobs = plain_logprobs(folder, tokens)[len(prompt) - 1 : -1]
    chosen = logprobs[torch.arange(len(logprobs)), torch.from_numpy(completion.token_ids.astype(np.int64))]
    entropies = -(logprobs.exp() * logprobs).sum(-1)
    np.testing.assert_allclose(completion.logprobs, chosen.numpy(), atol=tolerance)
    np.testing.assert_allclose(completion.entropies, entropies.numpy(), atol=tolerance)
