"""`trieline check model`: the proof on models of every family, and refusals that say why."""

from pathlib import Path

import pytest
import torch
from transformers import Ernie4_5Config, Ernie4_5ForCausalLM

from tests.learner.tiny_models import ARCHITECTURES, tiny_hf_model
from trieline.learner.errors import ModelRefusedError
from trieline.learner.model.model_check import GRADIENT_TOLERANCE, ROUNDED_GRADIENT_TOLERANCE, check_model


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_family_is_exact_in_float64(architecture: str, tmp_path: Path) -> None:
    tiny_hf_model(architecture, dtype=torch.float32).save_pretrained(tmp_path)
    result = check_model(tmp_path)
    assert result.exact, result.lines
    assert f"(limit {GRADIENT_TOLERANCE:.0e})" in result.lines[3], "not compared to float32's precision only"


def test_a_model_that_rotates_in_float32_is_compared_to_its_precision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Ernie4_5Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
    )
    Ernie4_5ForCausalLM(config).save_pretrained(tmp_path)
    result = check_model(tmp_path)
    assert result.exact, result.lines
    assert f"(limit {ROUNDED_GRADIENT_TOLERANCE:.0e})" in result.lines[3]


def test_windows_longer_than_the_sequences_are_shortened_to_matter(tmp_path: Path) -> None:
    model = tiny_hf_model("mistral", dtype=torch.float32)
    model.config.sliding_window = 64
    model.save_pretrained(tmp_path)
    result = check_model(tmp_path)
    assert result.exact, result.lines
    assert result.lines[1] == "its windows of 64 tokens shortened to 9, less than these sequences have"


def test_a_refusal_says_why(tmp_path: Path) -> None:
    model = tiny_hf_model("gemma3", dtype=torch.float32)
    model.config.use_bidirectional_attention = True
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelRefusedError, match="see those after them"):
        check_model(tmp_path)
