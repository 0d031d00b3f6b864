"""A decoder on tries: exact for every path, or refused by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GptOssConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    Qwen3MoeConfig,
)

from tests.learner.tiny_models import ARCHITECTURES, VOCAB_SIZE, tiny_hf_model, tiny_pair
from trieline.common.arrays import Int32
from trieline.learner.batch.trie import build_trie
from trieline.learner.errors import ModelRefusedError
from trieline.learner.model.tree_forward import TreeModel, load_tree_model


def random_sequences(seed: int = 0) -> list[Int32]:
    """Two prompts of 30 tokens, five branches of up to 40 each."""
    rng = np.random.default_rng(seed)
    sequences = []
    for _ in range(2):
        prompt = rng.integers(0, VOCAB_SIZE, 30)
        sequences += [
            np.concatenate([prompt, rng.integers(0, VOCAB_SIZE, int(rng.integers(1, 40)))]).astype(np.int32)
            for _ in range(5)
        ]
    return sequences


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float64, 1e-12),
        # Sums in another order: some units in the last place, through two layers.
        (torch.float32, 1e-5),
        # 8 bits: two shapes of transformers' own forward differ as much (see the test after this one).
        (torch.bfloat16, 3e-2),
    ],
    ids=str,
)
def test_hidden_states_equal_those_of_separate_sequences(
    architecture: str, dtype: torch.dtype, tolerance: float
) -> None:
    model, plain = tiny_pair(architecture, dtype=dtype)
    sequences = random_sequences()
    trie = build_trie(sequences)
    with torch.no_grad():
        packed = model.hidden_states(trie)
        for s, path in zip(sequences, trie.paths, strict=True):
            ids = torch.from_numpy(s.astype(np.int64))[None]
            alone = plain(ids, output_hidden_states=True).hidden_states[-1][0]
            error = (packed[torch.from_numpy(path)] - alone).double().norm() / alone.double().norm()
            assert error < tolerance, error


def test_bfloat16_is_as_close_as_the_model_is_to_itself() -> None:
    """Against float64, the packed forward in bfloat16 is no worse than transformers' own."""
    exact, _ = tiny_pair("llama", dtype=torch.float64)
    model, plain = tiny_pair("llama", dtype=torch.bfloat16)
    sequences = random_sequences()
    trie = build_trie(sequences)
    with torch.no_grad():
        wanted, packed = exact.hidden_states(trie), model.hidden_states(trie).double()
        alone = torch.empty_like(wanted)
        for s, path in zip(sequences, trie.paths, strict=True):
            ids = torch.from_numpy(s.astype(np.int64))[None]
            alone[torch.from_numpy(path)] = (
                plain(ids, output_hidden_states=True).hidden_states[-1][0].double()
            )
    assert (packed - wanted).norm() < 1.1 * (alone - wanted).norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tokens_off_a_path_change_nothing_on_it_bit_for_bit(dtype: torch.dtype) -> None:
    model, _ = tiny_pair("qwen3", dtype=dtype)
    rng = np.random.default_rng(1)
    sequences = random_sequences()
    trie = build_trie(sequences)
    with torch.no_grad():
        before = model.hidden_states(trie)
        for path in trie.paths:
            other = trie.token_ids.copy()
            off = np.setdiff1d(np.arange(trie.num_tokens), path)
            other[off] = rng.integers(0, VOCAB_SIZE, len(off))
            changed = build_trie(sequences)
            changed.token_ids[:] = other
            assert torch.equal(
                model.hidden_states(changed)[torch.from_numpy(path)], before[torch.from_numpy(path)]
            )


def _config(kind: Any, **settings: Any) -> Any:
    shape = {"vocab_size": VOCAB_SIZE, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return kind(**(shape | settings))


def from_config(config: Any) -> Any:
    return AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]


_DECODER: dict[str, Any] = {"intermediate_size": 16, "num_key_value_heads": 1, "head_dim": 8}
REFUSED = {
    "llama4": (
        _config(Llama4TextConfig, **_DECODER, intermediate_size_mlp=16, num_local_experts=2),
        "layers of type chunked_attention; only full_attention and sliding_attention are exact by themselves",
    ),
    "gemma3 of embeddings": (
        _config(Gemma3TextConfig, **_DECODER, use_bidirectional_attention=True),
        "its tokens see those after them",
    ),
    "dynamic rotary frequencies": (
        _config(
            LlamaConfig,
            **_DECODER,
            rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0},
        ),
        "depend on the length of a sequence .rope type dynamic",
    ),
    "qwen3_moe with the auxiliary loss": (
        _config(
            Qwen3MoeConfig,
            **_DECODER,
            moe_intermediate_size=16,
            num_experts=4,
            num_experts_per_tok=2,
            output_router_logits=True,
        ),
        "auxiliary loss of the router",
    ),
    "gpt_oss": (
        _config(
            GptOssConfig,
            **_DECODER,
            num_local_experts=2,
            num_experts_per_tok=1,
            layer_types=["full_attention"] * 2,
        ),
        "s_aux",
    ),
    "mamba": (_config(MambaConfig), "layers of type"),
}


@pytest.mark.parametrize(("config", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_models_that_are_not_exact_on_tries_are_refused_by_name(config: Any, reason: str) -> None:
    hf_model = from_config(config)
    with pytest.raises(ModelRefusedError, match=rf"(?s){reason}") as error:
        TreeModel(hf_model)
    assert type(hf_model).__name__.removesuffix("ForCausalLM") in str(error.value)


def test_a_window_that_the_layers_do_not_ask_for_is_refused() -> None:
    hf_model = tiny_hf_model("gemma3", dtype=torch.float32)
    hf_model.model.layers[0].self_attn.sliding_window = None
    with pytest.raises(
        ModelRefusedError, match=r"expected layers with windows of \[6, 0\] tokens .* \[0, 0\]"
    ):
        TreeModel(hf_model)


def test_learned_positions_are_depths_too() -> None:
    config = GPT2Config(
        vocab_size=VOCAB_SIZE, n_embd=16, n_layer=2, n_head=2, n_positions=128, attn_pdrop=0.0
    )
    TreeModel(from_config(config))


def test_a_model_that_mixes_tokens_is_refused() -> None:
    class Mixing(torch.nn.Module):
        """Each token takes a bit of the one before it, whatever its path."""

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden + 0.1 * hidden.roll(1, dims=1)

    hf_model = tiny_hf_model("llama", dtype=torch.float32)
    hf_model.model.norm = Mixing()
    with pytest.raises(ModelRefusedError, match="a token changes the hidden states of other branches"):
        TreeModel(hf_model)


def test_logits_that_are_not_linear_are_refused() -> None:
    class Capped(torch.nn.Linear):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return super().forward(hidden).tanh()

    hf_model = tiny_hf_model("qwen2", dtype=torch.float32)
    head = Capped(24, VOCAB_SIZE, bias=False)
    head.weight = hf_model.lm_head.weight
    hf_model.lm_head = head
    with pytest.raises(ModelRefusedError, match="not linear in the hidden states"):
        TreeModel(hf_model)


def test_load_from_a_folder(tmp_path: Path) -> None:
    tiny_hf_model("llama", dtype=torch.float32).save_pretrained(tmp_path)
    model = load_tree_model(tmp_path, torch.bfloat16, with_value_head=True)
    assert model.dtype == torch.bfloat16
    assert model.value_head is not None
    assert model.value_head.linear.weight.dtype == torch.float32
    hidden = model.hidden_states(build_trie(random_sequences()))
    (model.value_head(hidden).sum() + hidden.sum()).backward()
    # Packs and branches add up in float32.
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
