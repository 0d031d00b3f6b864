"""Folders that are not what they seem: each is refused in a line that names what is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trieline.learner.errors import ModelSourceError
from trieline.learner.model.model_check import check_model
from trieline.learner.model_folder.folder_checks import check_model_folder
from trieline.learner.model_folder.loading import load_causal_lm
from trieline.learner.model_folder.model_source import prepare_model
from trieline.learner.policy_server.decoders.choose_decoder import load_decoder

Damage = Callable[[Path], None]


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(tiny_folder, copy)
    return copy


def change_weights(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def renamed(prefix: str) -> Damage:
    return lambda folder: change_weights(folder, lambda w: {prefix + name: t for name, t in w.items()})


def without(name: str) -> Damage:
    return lambda folder: change_weights(folder, lambda w: {n: t for n, t in w.items() if name not in n})


def wider(folder: Path) -> None:
    change_weights(folder, lambda w: {**w, "model.norm.weight": torch.ones(7)})


@pytest.mark.parametrize("load", [check_model, lambda f: load_decoder(f, torch.float32)])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            renamed("_orig_mod."),
            r"they lack \d+ tensors \(.*\) and have \d+ unknown ones \(_orig_mod\.model\.",
        ),
        (renamed("module."), r"have \d+ unknown ones \(module\.model\."),
        (without("layers.1."), r"they lack \d+ tensors \(model\.layers\.1\."),
        (wider, r"have 1 of another shape \(model\.norm\.weight\)"),
        (lambda f: change_json(f / "config.json", model_type="nothing_known"), "can't load the model in"),
    ],
    ids=["compiled", "wrapped", "layer", "shape", "type"],
)
def test_weights_that_are_not_the_models_are_refused_by_name(
    folder: Path, damage: Damage, said: str, load: Callable[[Path], object]
) -> None:
    damage(folder)
    with pytest.raises(ModelSourceError, match=said):
        load(folder)


def test_a_whole_folder_loads(folder: Path) -> None:
    check_model_folder(folder)
    model = load_causal_lm(folder, torch.float32)
    assert not model.training


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def index(*files: object) -> Damage:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "one.safetensors")
        weight_map = {f"tensor{n}": name for n, name in enumerate(files)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return damage


def add_token(folder: Path) -> None:
    path = folder / "tokenizer.json"
    added = json.loads(path.read_text())["added_tokens"]
    change_json(path, added_tokens=[*added, {**added[0], "id": 260, "content": "<think>"}])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: pointer(f / "model.safetensors"), "model.safetensors is a Git LFS pointer.*git lfs pull"),
        (lambda f: pointer(f / "tokenizer.json"), "tokenizer.json is a Git LFS pointer"),
        (lambda f: pointer(f / "config.json"), "config.json is a Git LFS pointer"),
        (lambda f: cut(f / "model.safetensors"), "model.safetensors is cut off or no safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "is cut off or no safetensors file"),
        (lambda f: cut(f / "tokenizer.json"), "expected JSON in .*tokenizer.json"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "expected a tokenizer in .*tokenizer.json"),
        (lambda f: (f / "config.json").write_text("{"), "expected JSON in .*config.json"),
        (add_token, "token '<think>' has id 260, the model has 260 rows"),
        (index("one.safetensors", "two.bin"), "expected safetensors files beside it .* got 'two.bin'"),
        (index("../one.safetensors"), r"expected safetensors files beside it .* got '\.\./one"),
        (index(7), "expected safetensors files beside it .* got 7"),
        (index(), "expected weight_map"),
    ],
)
def test_a_folder_that_can_not_be_used_says_why_in_a_line(folder: Path, damage: Damage, said: str) -> None:
    damage(folder)
    with pytest.raises(ModelSourceError, match=said) as error:
        prepare_model(str(folder))
    assert "\n" not in str(error.value)
