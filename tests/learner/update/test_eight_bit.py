"""Moments in 8 bits by bitsandbytes: near those in 32, saved exactly, as small as told, refused by name."""

import sys

import msgspec
import pytest
import torch
from torch import nn

from trieline.learner.config import LearnerConfig, OptimizerConfig
from trieline.learner.errors import CheckpointError, LearnerError
from trieline.learner.update.eight_bit import SMALLEST, EightBitOptimizer, moment_bytes
from trieline.learner.update.optimizer import MasterOptimizer

CONFIG = OptimizerConfig(lr=1e-2, weight_decay=0.1, max_grad_norm=1e9)
SHAPES = {"large": (70, 71), "whole blocks": (64, 256), "small": (33,)}


def optimizer_of(kind: type[MasterOptimizer], dtype: torch.dtype = torch.float32) -> MasterOptimizer:
    torch.manual_seed(0)
    named = [(name, nn.Parameter(torch.randn(shape))) for name, shape in SHAPES.items()]
    return kind(named, CONFIG, total_steps=100, compute_dtype=dtype)


def run(optimizer: MasterOptimizer, first: int, last: int) -> None:
    """Gradients of a common direction and of noise, whose blocks are of very different sizes."""
    for step in range(first, last):
        for number, parameter in enumerate(optimizer._parameters):
            assert parameter.grad is not None
            generator = torch.Generator().manual_seed(number)
            shape = parameter.shape
            scale = torch.logspace(-4, 0, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
            mean = torch.randn(shape, generator=generator)
            noise = torch.randn(shape, generator=generator.manual_seed(1000 * step + number))
            parameter.grad.copy_(scale * (mean + noise))
        assert optimizer.step().applied


def flat(optimizer: MasterOptimizer, name: str) -> torch.Tensor:
    return optimizer.masters()[name].clone()


def test_updates_are_near_those_of_moments_in_32_bits() -> None:
    pytest.importorskip("bitsandbytes")
    eight, full = optimizer_of(EightBitOptimizer), optimizer_of(MasterOptimizer)
    start = {name: flat(full, name) for name in SHAPES}
    run(eight, 0, 1)
    run(full, 0, 1)
    for name in SHAPES:
        torch.testing.assert_close(flat(eight, name), flat(full, name), rtol=1e-5, atol=1e-5)
    run(eight, 1, 30)
    run(full, 1, 30)
    for name in SHAPES:
        apart = (flat(eight, name) - flat(full, name)).norm() / (flat(full, name) - start[name]).norm()
        assert apart < (0.1 if name != "small" else 1e-4), name
        assert apart > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_state_goes_on_bit_for_bit(dtype: torch.dtype) -> None:
    pytest.importorskip("bitsandbytes")
    straight, resumed = (optimizer_of(EightBitOptimizer, dtype) for _ in range(2))
    run(straight, 0, 3)
    saved = {name: tensor.clone() for name, tensor in straight.state_dict().items()}
    masters = {name: tensor.clone() for name, tensor in straight.masters().items()}
    run(straight, 3, 6)
    resumed.load_masters(masters)
    resumed.load_state_dict({**saved, "of somebody else": torch.zeros(3)})
    assert all(torch.equal(tensor, saved[name]) for name, tensor in resumed.state_dict().items())
    run(resumed, 3, 6)
    assert resumed.updates == 6
    for name, tensor in straight.masters().items():
        assert torch.equal(resumed.masters()[name], tensor), name
    for name, tensor in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    resumed.forget()
    assert not resumed.state_dict()["exp_avg.small"].any()


def test_a_state_takes_the_bytes_that_are_told() -> None:
    pytest.importorskip("bitsandbytes")
    optimizer = optimizer_of(EightBitOptimizer)
    run(optimizer, 0, 1)
    state = optimizer.state_dict()
    del state["updates"]
    assert state["exp_avg.large"].dtype == torch.uint8
    assert state["exp_avg.small"].dtype == torch.float32
    sizes = [torch.Size(shape).numel() for shape in SHAPES.values()]
    assert sum(t.numel() * t.element_size() for t in state.values()) == sum(map(moment_bytes, sizes))
    assert moment_bytes(SMALLEST - 1) == 8 * (SMALLEST - 1)
    assert moment_bytes(1 << 20) == (2 << 20) + (8 << 12)


def test_states_of_other_bits_are_refused() -> None:
    pytest.importorskip("bitsandbytes")
    eight, full = optimizer_of(EightBitOptimizer), optimizer_of(MasterOptimizer)
    run(eight, 0, 1)
    run(full, 0, 1)
    with pytest.raises(CheckpointError, match=r"expected moments in 8 bits.*states = '32bit'"):
        eight.load_state_dict(full.state_dict())
    with pytest.raises(CheckpointError, match=r"expected moments in 32 bits.*states = '8bit'"):
        full.load_state_dict(eight.state_dict())
    other = {name: t for name, t in eight.state_dict().items() if name != "exp_avg.scales.large"}
    with pytest.raises(CheckpointError, match=r"expected exp_avg\.scales\.large of shape \(20,\)"):
        eight.load_state_dict(other)
    another = {
        name: t for name, t in eight.state_dict().items() if "large" not in name and "blocks" not in name
    }
    with pytest.raises(CheckpointError, match=r"expected exp_avg\.large of shape \(70, 71\)"):
        eight.load_state_dict(another)


def test_without_bitsandbytes_they_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(LearnerError, match=r"needs bitsandbytes, which is not installed: pip install"):
        optimizer_of(EightBitOptimizer)


def test_ranks_refuse_them() -> None:
    config = LearnerConfig(optimizer=OptimizerConfig(states="8bit"))
    config.validate()
    with pytest.raises(LearnerError, match=r"optimizer\.states = '32bit' with ranks > 1, got '8bit' with 2"):
        msgspec.structs.replace(config, ranks=2).validate()
