"""Versions as folders that an engine reads: links, copies, merged adapters, and none that does not fit."""

import errno
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.learner.policy_server.cpu.tiny import save_model
from trieline.learner.config import LoraConfig
from trieline.learner.errors import CheckpointError
from trieline.learner.keeping.weight_file import ADAPTER_KEY, write_weights
from trieline.learner.model.adapters import Adapters
from trieline.learner.policy_server.foreign.adapter_base import AdapterBase
from trieline.learner.policy_server.foreign.staged_weights import KEPT, StagedWeights


def published(path: Path, value: float) -> Path:
    save_file({"a.weight": torch.full((2, 3), value), "b.weight": torch.zeros(4)}, path)
    return path


@pytest.mark.parametrize("copied", [False, True])
def test_the_newest_are_kept_as_links_or_copies(model_folder: Path, tmp_path: Path, copied: bool) -> None:
    place = tmp_path / "place"
    staged = StagedWeights(
        model_folder, place, place if copied else None, AdapterBase(model_folder, torch.float32)
    )
    for version in range(4):
        folder = staged.stage(published(tmp_path / f"{version}.safetensors", version), f"v{version}")
        file = folder / "model.safetensors"
        assert file.is_symlink() is not copied
        assert float(load_file(file)["a.weight"][0, 0]) == version
    assert sorted(one.name for one in place.iterdir()) == [f"v{n}" for n in range(4 - KEPT, 4)]
    staged.close()
    assert list(place.iterdir()) == []
    assert (tmp_path / "3.safetensors").exists(), "the learner's own file"


@pytest.mark.parametrize("data", [b"", b"short", b"\xff" * 64, (8).to_bytes(8, "little") + b'["no"]  '])
def test_what_is_no_safetensors_file_is_told(model_folder: Path, tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "policy.safetensors"
    file.write_bytes(data)
    staged = StagedWeights(model_folder, tmp_path / "place", None, AdapterBase(model_folder, torch.float32))
    with pytest.raises(CheckpointError, match=r"policy\.safetensors"):
        staged.stage(file, "v0")


def test_adapters_become_whole_weights(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "base", "llama")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    before = load_file(folder / "model.safetensors")
    adapters = Adapters(model, LoraConfig(rank=2, targets=("q_proj",)), folder)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for parameter in trained.values():
        torch.nn.init.normal_(parameter, std=0.3)
    file = tmp_path / "policy.safetensors"
    tensors = {name: p.detach() for name, p in adapters.published(trained).items()}
    write_weights(file, tensors, metadata={ADAPTER_KEY: adapters.config_json})
    base = AdapterBase(folder, torch.float32)
    staged = StagedWeights(folder, tmp_path / "place", None, base)
    whole = load_file(staged.stage(file, "v1") / "model.safetensors")
    assert whole.keys() >= before.keys()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, whole[name])}
    assert changed == {name for name in before if "q_proj.weight" in name}
    for name, tensor in base.merged(file, adapters.config_json).items():
        assert torch.equal(whole[name], tensor)


@pytest.mark.parametrize("happens", ["the disk is full", "it is closed"])
def test_nothing_is_left_of_what_was_not_staged_to_its_end(
    model_folder: Path, tmp_path: Path, happens: str
) -> None:
    class Base(AdapterBase):
        def merged(self, path: Path, config: str) -> dict[str, torch.Tensor]:
            if happens == "the disk is full":
                raise OSError(errno.ENOSPC, "no space left")
            staged.close()
            return {"a.weight": torch.zeros(2, 3)}

    file, place = tmp_path / "policy.safetensors", tmp_path / "place"
    write_weights(file, {"a": torch.zeros(1)}, metadata={ADAPTER_KEY: "{}"})
    staged = StagedWeights(model_folder, tmp_path / "links", place, Base(model_folder, torch.float32))
    with pytest.raises(OSError, match="no space left") if happens == "the disk is full" else nullcontext():
        staged.stage(file, "v1")
    assert list(place.iterdir()) == []
