"""A tied model as one whose head is a tensor of its own, for an engine that would keep the old head."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.learner.policy_server.cpu.tiny import save_model
from trieline.learner.policy_server.foreign.adapter_base import AdapterBase
from trieline.learner.policy_server.foreign.staged_weights import StagedWeights
from trieline.learner.policy_server.foreign.untied_head import ties_head, untied_folder


def test_the_untied_folder_is_the_same_model(tmp_path: Path) -> None:
    tied = save_model(tmp_path / "tied", "qwen3")
    assert ties_head(tied)
    assert not ties_head(save_model(tmp_path / "untied", "llama"))
    target = untied_folder(tied, tmp_path / "target")
    assert not ties_head(target)
    assert json.loads((target / "config.json").read_text())["tie_word_embeddings"] is False
    assert (target / "model.safetensors").is_symlink()
    ids = torch.arange(9)[None]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(tied)(ids).logits
    head = load_file(target / "lm_head.safetensors")["lm_head.weight"]
    assert torch.equal(head, load_file(tied / "model.safetensors")["model.embed_tokens.weight"])
    # All of its files together are the untied model.
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "config.json").write_text((target / "config.json").read_text())
    tensors = {name: t for file in target.glob("*.safetensors") for name, t in load_file(file).items()}
    save_file(tensors, whole / "model.safetensors", metadata={"format": "pt"})
    with torch.no_grad():
        assert torch.equal(AutoModelForCausalLM.from_pretrained(whole)(ids).logits, expected)


def test_every_version_brings_its_head(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "tied", "qwen3")
    staged = StagedWeights(folder, tmp_path / "place", None, AdapterBase(folder, torch.float32))
    staged.untied = True
    tensors = {name: t + 1 for name, t in load_file(folder / "model.safetensors").items()}
    save_file(tensors, tmp_path / "policy.safetensors", metadata={"format": "pt"})
    version = staged.stage(tmp_path / "policy.safetensors", "v1")
    head = load_file(version / "lm_head.safetensors")["lm_head.weight"]
    assert torch.equal(head, tensors["model.embed_tokens.weight"])
