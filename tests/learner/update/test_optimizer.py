import itertools
import math

import pytest
import torch
from torch import nn

from trieline.learner.config import OptimizerConfig
from trieline.learner.errors import CheckpointError, TrainingError
from trieline.learner.update.optimizer import NORM_ROW, MasterOptimizer, Optimizer, flat_norm, learning_rate


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def backward(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    loss = model(torch.randn(4, 5, generator=generator).to(dtype)).float().pow(2).mean()
    loss.backward()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("max_grad_norm", [1e-3, 1e3])
def test_steps_equal_those_of_torch(weight_decay: float, max_grad_norm: float) -> None:
    ours, theirs = small_model(), small_model()
    config = OptimizerConfig(lr=1e-2, weight_decay=weight_decay, max_grad_norm=max_grad_norm)
    optimizer = MasterOptimizer(ours.named_parameters(), config, total_steps=5)
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=weight_decay)
    for step in range(5):
        backward(ours, step)
        backward(theirs, step)
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), max_grad_norm)
        reference.step()
        reference.zero_grad()
        update = optimizer.step()
        assert update.applied
        assert update.grad_norm == pytest.approx(float(norm), rel=1e-5)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("elements", [1, NORM_ROW - 1, NORM_ROW, 3 * NORM_ROW + 5, 30_000_001])
def test_the_norm_of_a_long_gradient_is_exact(elements: int) -> None:
    gradient = torch.randn(elements, generator=torch.Generator().manual_seed(0))
    # Each row rounds in float32, the sum of the rows does not: torch's own norm of the longest is 2e-3 off.
    assert float(flat_norm(gradient)) == pytest.approx(float(gradient.double().norm()), rel=1e-6)


def test_bfloat16_parameters_follow_float32_masters() -> None:
    model = small_model()
    values = {name: p.detach().clone() for name, p in model.named_parameters()}
    # Far below what a bfloat16 can add to a weight, so without masters nothing would ever move.
    config = OptimizerConfig(lr=1e-5)
    optimizer = MasterOptimizer(
        model.named_parameters(), config, total_steps=200, compute_dtype=torch.bfloat16
    )
    assert all(torch.equal(optimizer.masters()[name], value) for name, value in values.items())
    for step in range(200):
        backward(model, step % 3)
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
        optimizer.step()
    moved = [float((optimizer.masters()[name] - value).abs().max()) for name, value in values.items()]
    assert min(moved) > 1e-4
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert torch.equal(parameter, optimizer.masters()[name].bfloat16())
        assert torch.equal(optimizer.weights()[name], parameter)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    model = small_model()
    optimizer = MasterOptimizer(model.named_parameters(), OptimizerConfig(), total_steps=5)
    before = [p.detach().clone() for p in model.parameters()]
    backward(model, 0)
    first = next(model.parameters())
    assert first.grad is not None
    first.grad[0, 0] = math.inf
    update = optimizer.step()
    assert not update.applied
    assert optimizer.updates == 0
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_frozen_parameters_are_left_alone() -> None:
    model = small_model()
    name, frozen = next(iter(model.named_parameters()))
    frozen.requires_grad_(False)
    before, memory = frozen.detach().clone(), frozen.data_ptr()
    optimizer: Optimizer = MasterOptimizer(
        model.named_parameters(), OptimizerConfig(lr=0.1), total_steps=5, compute_dtype=torch.bfloat16
    )
    assert set(optimizer.masters()) == {n for n, _ in model.named_parameters()} - {name}
    assert set(optimizer.weights()) == set(optimizer.masters())
    assert (frozen.data_ptr(), frozen.grad) == (memory, None)
    assert torch.equal(frozen, before)
    model.requires_grad_(False)
    with pytest.raises(TrainingError, match="expected parameters that can be trained, got none"):
        MasterOptimizer(model.named_parameters(), OptimizerConfig(), total_steps=5)


def test_tied_parameters_stay_tied() -> None:
    embedding, head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
    head.weight = embedding.weight
    model = nn.ModuleDict({"embedding": embedding, "head": head})
    optimizer = MasterOptimizer(
        model.named_parameters(), OptimizerConfig(lr=0.1), total_steps=1, compute_dtype=torch.bfloat16
    )
    head(embedding(torch.tensor([1, 2]))).float().sum().backward()
    optimizer.step()
    assert list(optimizer.masters()) == ["embedding.weight"]
    assert head.weight.data_ptr() == embedding.weight.data_ptr()


def test_state_restores_bit_for_bit() -> None:
    config = OptimizerConfig(lr=1e-2, schedule="cosine")
    straight, stopped = small_model(), small_model()
    one = MasterOptimizer(straight.named_parameters(), config, total_steps=6, compute_dtype=torch.bfloat16)
    two = MasterOptimizer(stopped.named_parameters(), config, total_steps=6, compute_dtype=torch.bfloat16)
    for step in range(3):
        for model, optimizer in ((straight, one), (stopped, two)):
            backward(model, step)
            optimizer.step()
    resumed = small_model()
    with torch.no_grad():
        for name, parameter in resumed.named_parameters():
            parameter.copy_(two.masters()[name])
    three = MasterOptimizer(resumed.named_parameters(), config, total_steps=6, compute_dtype=torch.bfloat16)
    three.load_state_dict({name: tensor.clone() for name, tensor in two.state_dict().items()})
    for step in range(3, 6):
        for model, optimizer in ((straight, one), (resumed, three)):
            backward(model, step)
            optimizer.step()
    assert all(torch.equal(one.masters()[n], three.masters()[n]) for n in one.masters())


def test_state_of_another_model_is_refused() -> None:
    optimizer = MasterOptimizer(small_model().named_parameters(), OptimizerConfig(), total_steps=1)
    other = MasterOptimizer(nn.Linear(2, 2).named_parameters(), OptimizerConfig(), total_steps=1)
    with pytest.raises(CheckpointError, match=r"expected exp_avg.0.weight of shape \(7, 5\) .* got None"):
        optimizer.load_state_dict(other.state_dict())
    flat = {"exp_avg": torch.ones(6), "exp_avg_sq": torch.ones(6), "updates": torch.tensor(2)}
    with pytest.raises(CheckpointError, match=r"expected exp_avg of shape \(66,\) .* got \(6,\)"):
        optimizer.load_state_dict(flat)


def test_moments_that_an_earlier_version_saved_flat_are_read() -> None:
    model = small_model()
    saved, read = (
        MasterOptimizer(model.named_parameters(), OptimizerConfig(), total_steps=2) for _ in range(2)
    )
    state = {"exp_avg": torch.arange(66.0), "exp_avg_sq": torch.arange(66.0) + 1, "updates": torch.tensor(3)}
    saved.load_state_dict(state)
    read.load_state_dict(saved.state_dict())
    assert read.updates == 3
    named = read.state_dict()
    for moment in ("exp_avg", "exp_avg_sq"):
        parts = [named[f"{moment}.{name}"].flatten() for name, _ in model.named_parameters()]
        assert torch.equal(torch.cat(parts), state[moment])


@pytest.mark.parametrize(("schedule", "last"), [("constant", 1.0), ("linear", 0.1), ("cosine", 0.1)])
def test_schedules(schedule: str, last: float) -> None:
    final = 0.0 if schedule == "constant" else 0.1
    config = OptimizerConfig(lr=1.0, schedule=schedule, warmup_steps=4, final_lr_fraction=final)  # type: ignore[arg-type]
    rates = [learning_rate(config, step, 20) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[-1] == pytest.approx(last)
    assert all(a >= b for a, b in itertools.pairwise(rates[4:]))
    assert learning_rate(config, 50, 20) == pytest.approx(last)
