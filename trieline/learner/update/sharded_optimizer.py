"""AdamW on float32 masters that lie in shards over several ranks: each updates its own.

Between two passes the parameters of a sharded model are its masters. What they become in the compute dtype is
gathered from them.
"""

import math
from collections.abc import Collection, Iterable, Mapping

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Shard

from trieline.learner.config import OptimizerConfig
from trieline.learner.errors import TrainingError
from trieline.learner.update.optimizer import (
    MOMENTS,
    Update,
    adamw,
    clip_scale,
    expect_shapes,
    flat_norm,
    learning_rate,
    moment_name,
    saved_moments,
)


class ShardedOptimizer:
    """Owns the shards of one model's parameters on this rank, and their moments.

    All ranks call `step` at the same time. What comes out by name are sharded tensors, which all ranks gather
    in the same order (`full_tensor`).
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        config: OptimizerConfig,
        *,
        total_steps: int,
        compute_dtype: torch.dtype | None = None,
        full_precision: Collection[str] = (),
    ) -> None:
        """As the constructor of `MasterOptimizer`, of a model that was sharded."""
        self._named = {name: p for name, p in named_parameters if p.requires_grad}
        if not self._named:
            msg = "expected parameters that can be trained, got none: all are frozen"
            raise TrainingError(msg)
        self.config = config
        self.updates = 0
        self._total_steps = total_steps
        self._compute_dtype = compute_dtype
        self._full_precision = frozenset(full_precision)
        # The memory of the parameters' shards, without the machinery of sharded tensors.
        self._shards = {name: _shard(p.detach()) for name, p in self._named.items()}
        first = next(iter(self._named.values()))
        assert isinstance(first, DTensor), "the model was sharded"
        self._group = first.device_mesh.get_group()
        self._adamw = adamw(list(self._shards.values()), config)

    def step(self, *, lr: float | None = None) -> Update:
        """Clip by the norm over all ranks, update the own shards, and drop the gradients."""
        rate = learning_rate(self.config, self.updates, self._total_steps) if lr is None else lr
        for name, parameter in self._named.items():
            # What has none is decayed all the same, as in one process, where gradients are always there.
            own = torch.zeros_like(self._shards[name]) if parameter.grad is None else _shard(parameter.grad)
            self._shards[name].grad = own
        norm = self._norm()
        applied = math.isfinite(norm)
        if applied:
            scale = clip_scale(self.config, norm)
            if scale < 1:
                torch._foreach_mul_(self._gradients(), scale)
            self._adamw.param_groups[0]["lr"] = rate
            self._adamw.step()
            self.updates += 1
        self.zero_grad()
        return Update(applied=applied, grad_norm=norm, lr=rate)

    def _gradients(self) -> list[torch.Tensor]:
        return [shard.grad for shard in self._shards.values() if shard.grad is not None]

    def _norm(self) -> float:
        norms = [flat_norm(gradient.reshape(-1)) for gradient in self._gradients()]
        device = next(iter(self._shards.values())).device
        squares = torch.zeros(1, dtype=torch.float64, device=device)
        if norms:
            squares += torch.stack(norms).square().sum()
        dist.all_reduce(squares, group=self._group)
        return math.sqrt(float(squares)) if torch.isfinite(squares) else float(squares)

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for shard in self._shards.values():
            shard.grad = None
        for parameter in self._named.values():
            parameter.grad = None

    def masters(self) -> dict[str, torch.Tensor]:
        """Sharded float32 master weights by name."""
        return {name: p.detach() for name, p in self._named.items()}

    def weights(self) -> dict[str, torch.Tensor]:
        """Sharded weights in the compute dtype by name."""
        weights = self.masters()
        if self._compute_dtype is not None:
            for name in weights.keys() - self._full_precision:
                weights[name] = weights[name].to(self._compute_dtype)
        return weights

    @torch.no_grad()
    def load_masters(self, masters: Mapping[str, torch.Tensor]) -> None:
        """Take over what `masters` gave, or whole tensors of the same names, each rank its part.

        Raises:
            CheckpointError: they are of another model; names the first tensor that differs.
        """
        expect_shapes({name: p.shape for name, p in self._named.items()}, masters, "the checkpoint")
        for name, parameter in self._named.items():
            _take_over(parameter.detach(), masters[name])

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Moments as sharded tensors, by the names of the parameters."""
        state: dict[str, torch.Tensor] = {}
        for moment in MOMENTS:
            for name, parameter in self._named.items():
                shard = self._shards[name]
                known = self._adamw.state.get(shard, {}).get(moment)
                own = torch.zeros_like(shard) if known is None else known
                state[moment_name(moment, name)] = _like(parameter, own)
        return {**state, "updates": torch.tensor(self.updates, dtype=torch.int64)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on where `state_dict` was taken, on however many ranks.

        Raises:
            CheckpointError: it is the state of another model.
        """
        state = saved_moments(state, {name: p.shape for name, p in self._named.items()})
        self.updates = int(state["updates"])
        self._adamw.state.clear()
        if not self.updates:
            return
        for name, parameter in self._named.items():
            shard = self._shards[name]
            step = torch.tensor(float(self.updates), device=shard.device)
            own: dict[str, torch.Tensor] = {"step": step}
            for moment in MOMENTS:
                own[moment] = torch.zeros_like(shard)
                _take_over(_like(parameter, own[moment]), state[moment_name(moment, name)])
            self._adamw.state[shard] = own

    def forget(self) -> None:
        """Drop the moments and start the schedule anew, as after a warm start on another objective."""
        self._adamw.state.clear()
        self.updates = 0


def _shard(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of this rank's part."""
    assert isinstance(tensor, DTensor), "the model was sharded"
    return tensor.to_local()


def _like(parameter: torch.Tensor, shard: torch.Tensor) -> DTensor:
    """`shard` as this rank's part of a tensor that is sharded as `parameter` is."""
    assert isinstance(parameter, DTensor), "the model was sharded"
    return DTensor.from_local(
        shard,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def _take_over(into: torch.Tensor, source: torch.Tensor) -> None:
    """Copy this rank's part of `source`, which is whole, or sharded in the same way."""
    assert isinstance(into, DTensor), "the model was sharded"
    if isinstance(source, DTensor):
        into.to_local().copy_(source.to_local())
        return
    (placement,) = into.placements
    assert isinstance(placement, Shard), "parameters are sharded along one dimension"
    parts = source.chunk(into.device_mesh.size(), dim=placement.dim)
    rank = into.device_mesh.get_local_rank()
    if rank < len(parts):
        into.to_local().copy_(parts[rank])
