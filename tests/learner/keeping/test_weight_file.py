import zlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.learner.policy_server.cpu.tiny import save_model
from trieline.learner.errors import CheckpointError
from trieline.learner.keeping.weight_file import (
    ExpectedWeights,
    expected_weights,
    read_weights,
    write_weights,
)


def test_neighbours_in_memory_and_others_come_back_alike(tmp_path: Path) -> None:
    flat = torch.arange(24, dtype=torch.bfloat16)
    tensors = {
        "a": flat[:6].view(2, 3),
        "b": flat[6:12],
        "gap": flat[13:20],
        "scalar": torch.tensor(7, dtype=torch.int64),
        "empty": torch.empty(0, 4),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "parameter": torch.nn.Parameter(torch.randn(3, 2)),
    }
    path = tmp_path / "w.safetensors"
    crc = write_weights(path, tensors, metadata={"policy_version": "3"})
    assert crc == zlib.crc32(path.read_bytes())
    for loaded in (load_file(path), read_weights(path, crc32=crc)):
        assert set(loaded) == set(tensors)
        for name, tensor in tensors.items():
            assert loaded[name].dtype == tensor.dtype
            assert torch.equal(loaded[name], tensor)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "policy_version": "3"}
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_what_is_not_as_it_was_written_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(
        CheckpointError, match=r"expected the weights in .*w\.safetensors, found no such file"
    ):
        read_weights(path)
    crc = write_weights(path, {"a": torch.ones(100)})
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"corrupt file: expected .*w\.safetensors with CRC-32"):
        read_weights(path, crc32=crc)
    path.write_bytes(data[:-40])
    with pytest.raises(CheckpointError, match="expected a safetensors file in"):
        read_weights(path)


TIED_HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model")


def expected_of(folder: Path) -> ExpectedWeights:
    return expected_weights(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


def test_a_tied_head_may_be_there_or_not_but_no_other(folder: Path, tmp_path: Path) -> None:
    expected = expected_of(folder)
    assert expected.tied == {TIED_HEAD: EMBEDDING}
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(TIED_HEAD, None)
    path = tmp_path / "weights.safetensors"
    for head in (None, tensors[EMBEDDING].clone()):
        save_file(tensors if head is None else tensors | {TIED_HEAD: head}, path)
        assert set(read_weights(path, expected=expected)) == set(tensors)
    save_file(tensors | {TIED_HEAD: tensors[EMBEDDING] + 1}, path)
    with pytest.raises(CheckpointError, match=f"expected {TIED_HEAD} to equal {EMBEDDING}"):
        read_weights(path, expected=expected)


def test_a_head_that_the_config_ties_and_the_file_has_of_its_own_is_a_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(
        tensors | {TIED_HEAD: tensors[EMBEDDING] + 1},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    expected = expected_of(folder)
    assert expected.tied == {}
    assert TIED_HEAD in read_weights(folder / "model.safetensors", expected=expected)


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        ("model.norm.weight", None, "lacks tensors: model.norm.weight"),
        ("model.extra", torch.zeros(2), "has unknown tensors: model.extra"),
        ("model.norm.weight", torch.zeros(47), r"expected model.norm.weight as floating point \[48\]"),
        ("model.norm.weight", torch.zeros(48, dtype=torch.int32), "expected model.norm.weight as floating"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(
    folder: Path, tmp_path: Path, name: str, tensor: torch.Tensor | None, reason: str
) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(name, None)
    if tensor is not None:
        tensors[name] = tensor
    path = tmp_path / "bad.safetensors"
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=reason):
        read_weights(path, expected=expected_of(folder))


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\xff" * 64])
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="expected a safetensors file in"):
        read_weights(path)
