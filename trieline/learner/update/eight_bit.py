"""AdamW whose moments take one byte a number, by bitsandbytes (arXiv 2110.02861).

Each block of 256 numbers of a moment is stored as 8-bit codes of what it is over the greatest magnitude in
the block; a step takes them back to float32, updates from these, and rounds what they become. Masters and
gradients stay float32.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch

from trieline.learner.config import OptimizerConfig
from trieline.learner.errors import CheckpointError, LearnerError
from trieline.learner.model.hub_programs import without_kernels
from trieline.learner.update.optimizer import (
    MOMENTS,
    MasterOptimizer,
    expect_shapes,
    moment_name,
)

SMALLEST = 4096
"""Numbers of a parameter from which on its moments take 8 bits; those of smaller ones stay float32."""
BLOCK = 256
"""bitsandbytes' own."""
SCALES = "scales"
"""What the scales of the blocks of a moment are called, after its name."""
OWN_NAMES = (("state1", "absmax1"), ("state2", "absmax2"))
"""Of `MOMENTS` and their scales, in bitsandbytes."""


def moment_bytes(num_elements: int) -> int:
    """Of both moments of a parameter."""
    if num_elements < SMALLEST:
        return 8 * num_elements
    return 2 * (num_elements + 4 * num_blocks(num_elements))


def num_blocks(num_elements: int) -> int:
    """Of a moment."""
    return -(-num_elements // BLOCK)


class EightBitOptimizer(MasterOptimizer):
    """As `MasterOptimizer`, parameter by parameter, so that no block spans two of them."""

    def _make_adamw(self, config: OptimizerConfig) -> Any:
        try:
            with without_kernels():
                bitsandbytes: Any = import_module("bitsandbytes")
        except ModuleNotFoundError as error:
            if error.name != "bitsandbytes":
                raise
            msg = (
                "learner.optimizer.states = '8bit' needs bitsandbytes, which is not installed: "
                "pip install 'trieline[learner,eight-bit]'"
            )
            raise LearnerError(msg) from error
        self._parts = {name: self._master[span] for name, (span, _) in self._spans.items()}
        return bitsandbytes.optim.AdamW(
            list(self._parts.values()),
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            optim_bits=8,
            min_8bit_size=SMALLEST,
        )

    def _run_adamw(self) -> None:
        for name, (span, _) in self._spans.items():
            self._parts[name].grad = self._grad[span]
        self._adamw.step()
        for part in self._parts.values():
            part.grad = None

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Codes, or float32 of small parameters, and scales, by the names of the parameters."""
        named: dict[str, torch.Tensor] = {}
        for index, (name, part) in enumerate(self._parts.items()):
            state = self._adamw.state.get(part) or self._blank(index, part)
            shape = self._spans[name][1]
            for moment, (own, scales) in zip(MOMENTS, OWN_NAMES, strict=True):
                named[moment_name(moment, name)] = state[own].view(shape)
                if scales in state:
                    named[moment_name(f"{moment}.{SCALES}", name)] = state[scales]
        return {**named, "updates": torch.tensor(self.updates, dtype=torch.int64)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            CheckpointError: it is the state of another model, or of moments in 32 bits.
        """
        expected = self.state_dict()
        own = {name: tensor for name, tensor in state.items() if name in expected}
        if any(tensor.dtype != expected[name].dtype for name, tensor in own.items()):
            msg = (
                "expected moments in 8 bits in the checkpoint, got them in 32: it was saved with "
                "learner.optimizer.states = '32bit'"
            )
            raise CheckpointError(msg)
        expect_shapes({name: t.shape for name, t in expected.items()}, own, "the optimizer state")
        self.updates = int(state["updates"])
        self._adamw.state.clear()
        if not self.updates:
            return
        for index, (name, part) in enumerate(self._parts.items()):
            known = self._blank(index, part)
            known["step"] = self.updates
            for moment, (codes, scales) in zip(MOMENTS, OWN_NAMES, strict=True):
                known[codes].copy_(own[moment_name(moment, name)].reshape(-1))
                if scales in known:
                    known[scales].copy_(own[moment_name(f"{moment}.{SCALES}", name)])
            self._adamw.state[part] = known

    def _blank(self, index: int, part: torch.Tensor) -> dict[str, Any]:
        """What bitsandbytes keeps of a parameter that it has not updated yet."""
        self._adamw.init_state(self._adamw.param_groups[0], part, 0, index)
        blank: dict[str, Any] = self._adamw.state.pop(part)
        return blank
