"""AdamW on float32 master weights, over all parameters as one flat tensor.

The parameters of the model become views of one buffer in the compute dtype, and so do their gradients, in
float32: backward passes then add up without rounding to bfloat16 in between. A step is a handful of passes
over long rows of memory instead of some for each of hundreds of tensors, and the weights can be published as
the one run of bytes that they are.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from trieline.learner.config import OptimizerConfig
from trieline.learner.errors import CheckpointError, TrainingError

NORM_ROW = 1 << 12
"""Elements whose squares are summed in float32. Of 135 million at once, on a CPU, `torch.linalg.vector_norm`
is 1.5 % off and takes twice as long."""

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Of the gradient and of its square, in torch's names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """What one optimizer step did."""

    applied: bool
    """False: the gradient was not finite and nothing was changed."""
    grad_norm: float
    """Before clipping."""
    lr: float


class Optimizer(Protocol):
    """What the learner knows of its optimizer, which may be one process or many.

    It owns the trainable parameters: gradients are added into their `.grad`, and what a step makes of them is
    seen by the model, and comes out by name.
    """

    def step(self, *, lr: float | None = None) -> Update:
        """Update from the gradients, and zero them. `lr` overrides the schedule."""

    def zero_grad(self) -> None:
        """Drop the gradients."""

    def weights(self) -> dict[str, torch.Tensor]:
        """Trainable weights as the model computes with them, by name."""

    def masters(self) -> dict[str, torch.Tensor]:
        """Trainable weights in float32, by name."""

    def load_masters(self, masters: Mapping[str, torch.Tensor]) -> None:
        """Take over what `masters` gave. Raises CheckpointError."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All else that it needs to go on."""

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over what `state_dict` gave. Raises CheckpointError."""

    def forget(self) -> None:
        """Begin anew, with the weights as they are."""


class OptimizerFactory(Protocol):
    """Makes the optimizer of a model."""

    def __call__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        config: OptimizerConfig,
        *,
        total_steps: int,
        compute_dtype: torch.dtype | None,
        full_precision: Collection[str],
    ) -> Optimizer:
        """As the constructor of `MasterOptimizer`."""


class MasterOptimizer:
    """Owns the parameters of one model: float32 masters, gradients, moments, and the compute copies."""

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        config: OptimizerConfig,
        *,
        total_steps: int,
        compute_dtype: torch.dtype | None = None,
        full_precision: Collection[str] = (),
    ) -> None:
        """Take over the parameters, whose values become the masters.

        Args:
            named_parameters: each once (tied ones under one name). The `.data` and `.grad` of the trainable
                ones are replaced; frozen ones are left alone.
            config: rates and clipping.
            total_steps: at which the schedule ends.
            compute_dtype: of the parameters from now on. None: float32, without copies.
            full_precision: names of the parameters that stay float32 all the same.
        """
        named = [(name, parameter) for name, parameter in named_parameters if parameter.requires_grad]
        if not named:
            msg = "expected parameters that can be trained, got none: all are frozen"
            raise TrainingError(msg)
        self.config = config
        self.updates = 0
        self._total_steps = total_steps
        device = named[0][1].device
        num_elements = sum(p.numel() for _, p in named)
        self._master = torch.empty(num_elements, dtype=torch.float32, device=device)
        self._compute = self._master
        if compute_dtype not in (None, torch.float32):
            self._compute = torch.empty(num_elements, dtype=compute_dtype, device=device)
        self._grad = torch.zeros_like(self._master)
        self._full_precision = frozenset(full_precision)
        self._spans: dict[str, tuple[slice, torch.Size]] = {}
        self._parameters = [p for _, p in named]
        offset = 0
        for name, parameter in named:
            self._spans[name] = (slice(offset, offset + parameter.numel()), parameter.shape)
            offset += parameter.numel()
            self._take_over(name, parameter)
        self._adamw = self._make_adamw(config)

    def _make_adamw(self, config: OptimizerConfig) -> Any:
        return adamw([self._master], config)

    def _take_over(self, name: str, parameter: nn.Parameter) -> None:
        span, shape = self._spans[name]
        self._master[span].view(shape).copy_(parameter.data)
        if self._compute is not self._master:
            self._compute[span].view(shape).copy_(parameter.data)
        parameter.data = self._used(name)
        # Without this, autograd would insist on gradients in the dtype of the parameter.
        parameter.grad_dtype = torch.float32
        parameter.grad = self._grad[span].view(shape)

    def step(self, *, lr: float | None = None) -> Update:
        """Clip the gradients, update, copy back, and zero the gradients. `lr` overrides the schedule."""
        rate = learning_rate(self.config, self.updates, self._total_steps) if lr is None else lr
        norm = float(flat_norm(self._grad))
        applied = math.isfinite(norm)
        if applied:
            self._apply(norm, rate)
            self.updates += 1
        self.zero_grad()
        return Update(applied=applied, grad_norm=norm, lr=rate)

    @torch.no_grad()
    def _apply(self, norm: float, rate: float) -> None:
        scale = clip_scale(self.config, norm)
        if scale < 1:
            self._grad.mul_(scale)
        self._adamw.param_groups[0]["lr"] = rate
        self._run_adamw()
        if self._compute is not self._master:
            self._compute.copy_(self._master)

    def _run_adamw(self) -> None:
        self._master.grad = self._grad
        self._adamw.step()
        self._master.grad = None

    def zero_grad(self) -> None:
        """Gradients stay the same memory, so that autograd adds into it."""
        self._grad.zero_()
        for parameter, (span, shape) in zip(self._parameters, self._spans.values(), strict=True):
            if parameter.grad is None:
                parameter.grad = self._grad[span].view(shape)

    def masters(self) -> dict[str, torch.Tensor]:
        """Float32 master weights by name, as views, in the order of the flat buffer."""
        return {name: self._master[span].view(shape) for name, (span, shape) in self._spans.items()}

    def weights(self) -> dict[str, torch.Tensor]:
        """Weights in the compute dtype by name, as views, in the order of the flat buffer."""
        return {name: self._used(name) for name in self._spans}

    def _used(self, name: str) -> torch.Tensor:
        span, shape = self._spans[name]
        return (self._master if name in self._full_precision else self._compute)[span].view(shape)

    @torch.no_grad()
    def load_masters(self, masters: Mapping[str, torch.Tensor]) -> None:
        """Take over master weights by name.

        Raises:
            CheckpointError: they are of another model; names the first tensor that differs.
        """
        expect_shapes(self._shapes(), masters, "the checkpoint")
        for name, (span, shape) in self._spans.items():
            self._master[span].view(shape).copy_(masters[name])
        if self._compute is not self._master:
            self._compute.copy_(self._master)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Moments by the names of the parameters; the masters are the model's own and are saved with it."""
        state = self._adamw.state.get(self._master, {})
        named: dict[str, torch.Tensor] = {}
        for moment in MOMENTS:
            flat = state.get(moment, torch.zeros_like(self._master))
            for name, (span, shape) in self._spans.items():
                named[moment_name(moment, name)] = flat[span].view(shape)
        return {**named, "updates": torch.tensor(self.updates, dtype=torch.int64)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            CheckpointError: it is the state of another model.
        """
        state = saved_moments(state, self._shapes())
        self.updates = int(state["updates"])
        if not self.updates:
            return
        own = {"step": torch.tensor(float(self.updates), device=self._master.device)}
        for moment in MOMENTS:
            own[moment] = torch.empty_like(self._master)
            for name, (span, shape) in self._spans.items():
                own[moment][span].view(shape).copy_(state[moment_name(moment, name)])
        self._adamw.state[self._master] = own

    def _shapes(self) -> dict[str, torch.Size]:
        return {name: shape for name, (_, shape) in self._spans.items()}

    def forget(self) -> None:
        """Drop the moments and start the schedule anew, as after a warm start on another objective."""
        self._adamw.state.clear()
        self.updates = 0


def adamw(masters: list[torch.Tensor], config: OptimizerConfig) -> torch.optim.AdamW:
    """Over float32 masters, whose gradients are set before each step."""
    return torch.optim.AdamW(
        masters,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


def clip_scale(config: OptimizerConfig, norm: float) -> float:
    """What gradients of this norm are multiplied with if it is below 1, as torch.nn.utils.clip_grad_norm_."""
    return config.max_grad_norm / (norm + 1e-6)


def moment_name(moment: str, parameter: str) -> str:
    """Under which a moment of a parameter is saved."""
    return f"{moment}.{parameter}"


def saved_moments(
    state: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size]
) -> dict[str, torch.Tensor]:
    """The moments of the parameters of these shapes, and `updates`, out of the tensors of a checkpoint.

    Earlier versions saved each moment as one flat tensor, in the order of the parameters.

    Raises:
        CheckpointError: they are of another model, or in 8 bits.
    """
    found = dict(state)
    for moment in MOMENTS:
        if (flat := found.pop(moment, None)) is not None:
            sizes = [shape.numel() for shape in shapes.values()]
            expect_shapes({moment: torch.Size([sum(sizes)])}, {moment: flat}, "the optimizer state")
            parts = zip(shapes.items(), torch.split(flat, sizes), strict=True)
            found |= {moment_name(moment, name): part.view(shape) for (name, shape), part in parts}
    expected = {moment_name(moment, name): shape for moment in MOMENTS for name, shape in shapes.items()}
    own = {name: tensor for name, tensor in found.items() if name in expected}
    expect_shapes(expected, own, "the optimizer state")
    if any(not tensor.is_floating_point() for tensor in own.values()):
        msg = (
            "expected moments in 32 bits in the checkpoint, got them in 8: it was saved with "
            "learner.optimizer.states = '8bit'"
        )
        raise CheckpointError(msg)
    return {**own, "updates": found["updates"]}


def expect_shapes(expected: Mapping[str, torch.Size], found: Mapping[str, torch.Tensor], where: str) -> None:
    """Raise CheckpointError for the first name that only one of them has, or has in another shape."""
    for name in [*expected, *found]:
        wanted = tuple(expected[name]) if name in expected else None
        got = tuple(found[name].shape) if name in found else None
        if wanted != got:
            msg = f"expected {name} of shape {wanted} in {where}, got {got} (None: not there)"
            raise CheckpointError(msg)


def flat_norm(flat: torch.Tensor) -> torch.Tensor:
    """The 2-norm of a float32 tensor [n] of any length, as float64."""
    whole = len(flat) // NORM_ROW * NORM_ROW
    norms = torch.linalg.vector_norm(flat[:whole].view(-1, NORM_ROW), dim=1)
    last = torch.linalg.vector_norm(flat[whole:])
    norm: torch.Tensor = torch.linalg.vector_norm(torch.cat([norms, last[None]]), dtype=torch.float64)
    return norm


def learning_rate(config: OptimizerConfig, update: int, total_steps: int) -> float:
    """The rate of update number `update` (from 0): linear warm-up, then the schedule."""
    if update < config.warmup_steps:
        return config.lr * (update + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    span = max(1, total_steps - 1 - config.warmup_steps)
    done = min(1.0, (update - config.warmup_steps) / span)
    shape = 1 - done if config.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return config.lr * (config.final_lr_fraction + (1 - config.final_lr_fraction) * shape)
