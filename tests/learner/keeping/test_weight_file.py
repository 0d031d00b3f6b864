from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from trieline.learner.errors import CheckpointError
from trieline.learner.keeping.weight_file import file_crc32, read_weights, write_weights


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
    assert crc == file_crc32(path)
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
    with pytest.raises(CheckpointError, match=r"corrupt checkpoint: expected .*w\.safetensors with CRC-32"):
        read_weights(path, crc32=crc)
    path.write_bytes(data[:-40])
    with pytest.raises(CheckpointError, match="expected a safetensors file in"):
        read_weights(path)
