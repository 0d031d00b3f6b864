"""The setting `learner.lora`: what is trained, named and merged, and what is refused."""

import json
import shutil
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import peft
import pytest
import torch

from tests.learner.tiny_models import tiny_hf_model
from tests.learner.update.test_train_step import trees
from trieline.learner.batch.batch import prepare_batch
from trieline.learner.config import LearnerConfig, LoraConfig
from trieline.learner.errors import CheckpointError, LearnerError
from trieline.learner.model.adapters import Adapters
from trieline.learner.model.hub_programs import without_kernels
from trieline.learner.model.tree_forward import TreeModel
from trieline.learner.model_folder.adapter_weights import low_ranks, merged, read_settings
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.update.learner import Learner
from trieline.learner.update.train_step import accumulate_gradients

BASE = Path("/base")


def adapt(model: Any, **settings: Any) -> Adapters:
    """Put adapters that do something into a model."""
    adapters = Adapters(model, LoraConfig(**settings), BASE)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return adapters


def adapted(**settings: Any) -> tuple[Any, Adapters, dict[str, torch.Tensor]]:
    """A model with adapters that do something, those by their published names."""
    model = tiny_hf_model("qwen3")
    adapters = adapt(model, **settings)
    trained = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    return model, adapters, trained


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(input_ids=torch.arange(9)[None], use_cache=False).logits
    return out


def test_adapters_change_nothing_at_first_and_alone_are_trained() -> None:
    plain, model = tiny_hf_model("qwen3"), tiny_hf_model("qwen3")
    Adapters(model, LoraConfig(rank=4), BASE)
    assert torch.equal(logits(plain), logits(model))
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * 7, "two factors, two layers of seven linear layers"
    assert all(".lora_" in name for name in trained)


def test_merged_is_what_the_adapters_compute() -> None:
    model, adapters, trained = adapted(rank=4, alpha=6)
    published = adapters.published(trained)
    assert adapters.own(published).keys() == trained.keys()
    settings = read_settings(adapters.config_json, where="here")
    assert (settings.r, settings.scaling, settings.base_model_name_or_path) == (4, 1.5, "/base")
    plain = tiny_hf_model("qwen3")
    before, weights = logits(plain), plain.state_dict()
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    for name, added in low_ranks(published, settings, shapes, where="here").items():
        weights[name].copy_(merged(weights[name], added))
    assert (logits(model) - before).abs().max() > 0.1
    torch.testing.assert_close(logits(plain), logits(model), rtol=1e-12, atol=1e-12)


def test_peft_opens_what_is_saved(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model, adapters, trained = adapted(rank=4, targets=("q_proj", "down_proj"))
    (tmp_path / "adapter_config.json").write_text(adapters.config_json)
    save_file(adapters.published(trained), tmp_path / "adapter_model.safetensors")
    opened = peft.PeftModel.from_pretrained(tiny_hf_model("qwen3"), str(tmp_path))
    torch.testing.assert_close(logits(opened), logits(model), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("max_tokens", [12, 10_000], ids=["depth-first", "one pass"])
def test_without_its_adapters_a_model_is_its_own_reference(max_tokens: int) -> None:
    config = ObjectiveConfig(kl_coef=0.5)
    batch = prepare_batch(trees(), config, max_tokens=max_tokens)
    found = []
    for own in (True, False):
        model, second = (TreeModel(tiny_hf_model("qwen3")) for _ in range(2))
        adapt(model.hf_model, rank=4)
        reference = model if own else second
        figures = accumulate_gradients(model, batch, config, policy_version=0, reference=reference)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append((dict(figures.items()), gradients))
    (own_figures, own_gradients), (other_figures, gradients) = found
    assert own_figures == other_figures
    assert own_figures["loss/kl"] > 0.1
    assert len(gradients) == 2 * 2 * 7
    assert all(torch.equal(own, other) for own, other in zip(own_gradients, gradients, strict=True))


def test_adapters_need_no_second_copy_of_their_model(tiny_folder: Path, tmp_path: Path) -> None:
    config = LearnerConfig(objective=ObjectiveConfig(kl_coef=0.5), lora=LoraConfig(rank=2))
    learner = Learner(config, tiny_folder, dtype=torch.float32)
    assert learner.reference is learner.model
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    second = Learner(config, tiny_folder, dtype=torch.float32, reference_folder=other)
    assert second.reference is not None
    assert not any("lora" in name for name, _ in second.reference.named_parameters())


def test_kernels_are_out_of_reach_inside_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "kernels", raising=False)
    theirs = ModuleType("kernels")
    for known in (None, theirs):
        if known is not None:
            monkeypatch.setitem(sys.modules, "kernels", known)
        with without_kernels(), pytest.raises(ModuleNotFoundError):
            import_module("kernels")
        assert sys.modules.get("kernels") is known


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "query"])
def test_targets_that_are_no_layers_are_refused(target: str) -> None:
    with pytest.raises(LearnerError, match=f"no linear layer {target} .* expected some of down_proj, gate"):
        Adapters(tiny_hf_model("qwen3"), LoraConfig(targets=("q_proj", target)), BASE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "expected adapters of LoRA"),
        ({"r": 0}, "expected a rank of 1 to 4096"),
        ({"use_dora": True}, "expected use_dora = False, got True"),
        ({"rank_pattern": {"q_proj": 8}}, "expected rank_pattern"),
    ],
)
def test_other_adapters_are_refused(changes: dict[str, Any], message: str) -> None:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **changes}
    with pytest.raises(CheckpointError, match=message):
        read_settings(json.dumps(config), where="here")


def test_adapters_of_another_model_are_refused() -> None:
    settings = read_settings('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}', where="here")
    shapes = {"a.weight": torch.Size((3, 4))}
    up, down = torch.zeros(3, 2), torch.zeros(2, 4)
    name = "base_model.model.{}.lora_{}.weight".format
    for tensors, message in (
        ({name("b", "A"): down, name("b", "B"): up}, "both factors of a linear layer b.weight"),
        ({name("a", "A"): down}, "both factors of a linear layer a.weight"),
        ({name("a", "A"): up, name("a", "B"): down}, r"expected factors \[\[2, 4\], \[3, 2\]\]"),
        ({name("a", "B"): up}, "unknown tensors"),
    ):
        with pytest.raises(CheckpointError, match=message):
            low_ranks(tensors, settings, shapes, where="here")
