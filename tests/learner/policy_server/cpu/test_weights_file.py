from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.learner.policy_server.cpu.tiny import (
    expect_plain,
    generate,
    random_prompt,
    request,
    save_model,
    tiny_engine,
)
from trieline.learner.policy_server.cpu.weights_file import TIED_HEAD, expected_shapes, read_weights
from trieline.learner.policy_server.errors import WeightsError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model")


def test_a_tied_head_may_be_there_or_not_and_precision_is_converted(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(TIED_HEAD, None)
    halves = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    with_head = halves | {TIED_HEAD: halves["model.embed_tokens.weight"].clone()}
    answers = []
    for name, written in (("without", halves), ("with", with_head)):
        path = tmp_path / f"{name}.safetensors"
        save_file(written, path)
        engine = tiny_engine(folder)
        engine.load(read_weights(path, expected_shapes(folder)), 1)
        answers.append(generate(engine, request(0, random_prompt(0, 9), max_tokens=6))[0].token_ids.tolist())
    assert answers[0] == answers[1]


def test_loaded_weights_outlive_their_file(folder: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", seed=1)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes((other / "model.safetensors").read_bytes())
    engine = tiny_engine(folder)
    engine.load(read_weights(copy, expected_shapes(folder)), 1)
    copy.write_bytes(b"\0" * copy.stat().st_size)
    prompt = random_prompt(1, 8)
    (completion,) = generate(engine, request(0, prompt, max_tokens=5))
    expect_plain(other, prompt, completion)


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
    with pytest.raises(WeightsError, match=reason):
        read_weights(path, expected_shapes(folder))


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\xff" * 64])
def test_a_broken_file_is_refused(folder: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="can't read the weights in"):
        read_weights(path, expected_shapes(folder))
    with pytest.raises(WeightsError, match="can't read the weights in"):
        read_weights(tmp_path / "none", expected_shapes(folder))
