from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config

from trieline.command_line import main
from trieline.learner.config import LearnerConfig
from trieline.learner.memory_check import UnknownModelError, config_of, fitting_tokens, shortage
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.update.memory_need import serving_need, training_need
from trieline.wire.config import ModelConfig

SMALL = Qwen3Config(
    vocab_size=8000,
    hidden_size=512,
    intermediate_size=1536,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=2,
    head_dim=64,
)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_packs_of_the_size_that_is_told_fit_and_larger_ones_do_not(checkpointed: bool) -> None:
    card = 4 * 2**30
    fitting = fitting_tokens(SMALL, card, checkpointed=checkpointed)
    assert fitting > 4096
    for share, fits in ((0.98, True), (1.05, False)):
        need = training_need(SMALL, tokens=int(share * fitting), checkpointed=checkpointed)
        assert (need.total <= card) is fits
    assert fitting_tokens(SMALL, 2**30) == 0


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="qwen3-4b; got"):
        config_of(str(tmp_path / "nothing"))


def test_a_run_that_does_not_fit_is_told_what_to_do(tmp_path: Path) -> None:
    SMALL.save_pretrained(tmp_path)
    model = ModelConfig(path=str(tmp_path), dtype="bfloat16")
    learner, server = LearnerConfig(max_tokens=32_768), PolicyServerConfig()
    served = serving_need(SMALL, kv_tokens=server.kv_tokens)
    need = training_need(SMALL, tokens=learner.max_tokens)
    text, step = shortage(model, learner, server, need.total + served)
    assert "on the same GPU" in text
    assert step == ""
    _, step = shortage(model, learner, server, need.total + served - need.activations // 2)
    assert step.startswith("set learner.max_tokens to ")
    # Where not even the smallest pack fits, by half of what moments in 8 bits spare.
    few, many = (training_need(SMALL, tokens=tokens, eight_bit=True) for tokens in (2048, 4096))
    empty = 2 * few.total - many.total + (need.moments - few.moments) // 2
    _, step = shortage(model, learner, server, served + empty)
    assert step.startswith("set learner.optimizer.states to '8bit', and learner.max_tokens to ")
    _, step = shortage(model, learner, server, served + 2**30)
    assert "learner.lora" in step


def test_what_a_run_is_told_to_do_is_enough_beside_a_reference_and_in_any_precision(tmp_path: Path) -> None:
    SMALL.save_pretrained(tmp_path)
    server, objective = PolicyServerConfig(device="cpu"), ObjectiveConfig(kl_coef=0.1)
    for model, dtype in (
        (ModelConfig(path=str(tmp_path), dtype="bfloat16"), torch.bfloat16),
        (ModelConfig(path=str(tmp_path), dtype="float32"), torch.float32),
    ):
        need = training_need(SMALL, tokens=32_768, dtype=dtype, with_reference=True)
        card = need.total - need.activations // 2
        _, step = shortage(model, LearnerConfig(max_tokens=32_768, objective=objective), server, card)
        told = int(step.removeprefix("set learner.max_tokens to ").removesuffix(" or less"))
        # A thousandth of the card may be missing.
        followed = LearnerConfig(max_tokens=told - told // 100, objective=objective)
        assert shortage(model, followed, server, card)[1] == "", dtype


def test_layers_that_are_computed_again_are_counted_as_such(tmp_path: Path) -> None:
    SMALL.save_pretrained(tmp_path)
    model = ModelConfig(path=str(tmp_path), dtype="bfloat16")
    server = PolicyServerConfig(device="cpu")
    plain = LearnerConfig(max_tokens=32_768)
    again = LearnerConfig(max_tokens=32_768, gradient_checkpointing=True)
    card = training_need(SMALL, tokens=again.max_tokens, checkpointed=True).total
    assert shortage(model, plain, server, card)[1]
    assert shortage(model, again, server, card)[1] == ""


def test_the_command_says_what_a_model_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SMALL.save_pretrained(tmp_path)
    assert main(["check", "memory", "--model", str(tmp_path), "--tokens", "1024"]) == 0
    said = capsys.readouterr().out
    assert "packs of up to" in said
    assert "moments in 8 bits: 0.0; then packs of up to" in said
    assert "policy server, 65536 tokens of cache" in said
