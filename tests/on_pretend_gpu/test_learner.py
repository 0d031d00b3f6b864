"""The learner's step on a device that is not the CPU: gradients and weights are those of a CPU."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from tests.on_pretend_gpu.pretend import DeviceMixError, OnDevice, device, pretend_device
from tests.trees import random_tree
from trieline.learner.config import LearnerConfig, LoraConfig
from trieline.learner.keeping.weight_file import write_weights
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.update import learner as learner_module
from trieline.learner.update.learner import Learner

VOCAB = 40
device()  # torch counts its devices in the first backward


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=32,
            tie_word_embeddings=True,
            initializer_range=0.3,
        )
    )
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("settings", "objective"),
    [
        ({}, {"advantage": "vtrace", "loss": "vtrace_pg"}),
        pytest.param(
            {"max_tokens": 16}, {"advantage": "vtrace", "loss": "vtrace_pg"}, marks=pytest.mark.long
        ),
        pytest.param(
            {"lora": LoraConfig(rank=2)}, {"kl_coef": 0.1, "skip_zero_std": False}, marks=pytest.mark.long
        ),
    ],
    ids=["whole", "depth-first", "adapters and a reference"],
)
def test_a_step_is_that_of_the_cpu(
    settings: dict[str, Any],
    objective: dict[str, Any],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    trees = [random_tree(rng, vocab_size=VOCAB, max_nodes=8, max_node_tokens=5) for _ in range(2)]
    config = LearnerConfig(threads=1, objective=ObjectiveConfig(**objective), **settings)
    monkeypatch.setattr(learner_module, "peak_flops", lambda dtype, device: 1.0)
    found: list[Any] = []
    start: Any = None
    for on_device in (False, True):
        place = pretend_device(monkeypatch) if on_device else contextlib.nullcontext(torch.device("cpu"))
        with place as where:
            monkeypatch.setattr(learner_module, "choose_device", lambda name, where=where: where)
            learner = Learner(config, folder, dtype=torch.float32)
            assert isinstance(learner.model.output_weight, OnDevice) == on_device
            if start is None:
                start = [
                    {name: tensor.clone() for name, tensor in tensors.items()}
                    for tensors in (learner.masters(), learner.trainer_tensors())
                ]
            learner.restore(*start, policy_version=0, skipped_in_a_row=0)
            report = learner.step(trees, lr=1e-2)
            file = tmp_path / "weights.safetensors"
            write_weights(file, learner.weights())
            weights = load_file(file)
            found.append((report, weights, learner.recompute_logprobs(trees)))
    (expected, expected_weights, expected_again), (report, weights, again) = found
    assert report.applied
    for name, value in expected.metrics.items():
        if not name.startswith(("time/", "perf/")):
            assert report.metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    for name, weight in expected_weights.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-3, atol=1e-3)
    for one, other in zip(again, expected_again, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_a_mix_of_devices_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretend_device(monkeypatch) as device:
        there, here = torch.ones(2, 3).to(device), torch.ones(2, 3)
        assert (there + torch.tensor(1.0) + there.cpu().to(device)).tolist() == [[3.0] * 3] * 2
        assert there[torch.tensor([1])].device == device
        with pytest.raises(DeviceMixError, match="on one device"):
            there + here
        with pytest.raises(DeviceMixError, match="on one device"):
            there @ here.T
        with pytest.raises(DeviceMixError, match="on one device"):
            here[there[0].long()]
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
