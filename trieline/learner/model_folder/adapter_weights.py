"""Adapters of LoRA outside of a model: under peft's names, with peft's `adapter_config.json`.

W + (alpha / r) B A        A [r, in], B [out, r], of the linear layer W [out, in]
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from trieline.learner.errors import CheckpointError

PREFIX = "base_model.model."
"""What peft puts before the names of a model's parts."""
FACTORS = (".lora_A.weight", ".lora_B.weight")
MAX_RANK = 4096


class AdapterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What of peft's `adapter_config.json` decides how adapters are merged. The rest is not looked at."""

    peft_type: Literal["LORA"]
    r: int
    lora_alpha: float
    base_model_name_or_path: str | None = None
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    bias: str = "none"
    rank_pattern: dict[str, Any] = {}
    alpha_pattern: dict[str, Any] = {}

    @property
    def scaling(self) -> float:
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


def read_settings(config: bytes | str, *, where: object) -> AdapterSettings:
    """Parse `adapter_config.json`; `where` it stands is for messages.

    Raises:
        CheckpointError: it is none, or of adapters that can't be merged here.
    """
    try:
        settings = msgspec.json.decode(config, type=AdapterSettings)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        msg = f"expected adapters of LoRA as peft describes them in {where}, got: {error}"
        raise CheckpointError(msg) from error
    if not (0 < settings.r <= MAX_RANK and math.isfinite(settings.lora_alpha)):
        msg = (
            f"{where}: expected a rank of 1 to {MAX_RANK} and a finite alpha, "
            f"got {settings.r} and {settings.lora_alpha}"
        )
        raise CheckpointError(msg)
    plain = AdapterSettings(peft_type="LORA", r=1, lora_alpha=1)
    for name in ("use_dora", "fan_in_fan_out", "bias", "rank_pattern", "alpha_pattern"):
        if (value := getattr(settings, name)) != getattr(plain, name):
            msg = f"{where}: expected {name} = {getattr(plain, name)!r}, got {value!r}, which is not merged"
            raise CheckpointError(msg)
    return settings


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LowRank:
    """What one or several adapters beside each other add to a linear layer."""

    down: Tensor
    """[r, in]"""
    up: Tensor
    """[out, r]"""
    scaling: float

    def __call__(self, x: Tensor) -> Tensor:
        """[T, out] of `x` [T, in], rounded where peft's own layer rounds."""
        return functional.linear(functional.linear(x, self.down), self.up) * self.scaling

    def takes(self, other: "LowRank") -> bool:
        """Take over the numbers of one of the same shapes; False: it has others."""
        same = (self.down.shape, self.up.shape, self.scaling) == (
            other.down.shape,
            other.up.shape,
            other.scaling,
        )
        if same:
            self.down.copy_(other.down)
            self.up.copy_(other.up)
        return same


def low_ranks(
    adapters: Mapping[str, Tensor],
    settings: AdapterSettings,
    shapes: Mapping[str, torch.Size],
    *,
    where: object,
) -> dict[str, LowRank]:
    """The adapters of each weight, by its name in the model, whose weights have these `shapes`.

    Raises:
        CheckpointError: adapters of parts that the model does not have, or of other shapes, or halves of one.
    """
    found: dict[str, LowRank] = {}
    left = set(adapters)
    for name, down in adapters.items():
        if not name.endswith(FACTORS[0]):
            continue
        part = name.removesuffix(FACTORS[0])
        target = part.removeprefix(PREFIX) + ".weight"
        up = adapters.get(part + FACTORS[1])
        got = [list(t.shape) for t in (down, up) if t is not None]
        shape = shapes.get(target)
        if shape is None or len(shape) != 2 or up is None:
            msg = f"{where}: expected both factors of a linear layer {target}, got {name} {got}"
            raise CheckpointError(msg)
        if got != (expected := [[settings.r, shape[1]], [shape[0], settings.r]]):
            msg = f"{where}: expected factors {expected} of {target}, got {got}"
            raise CheckpointError(msg)
        found[target] = LowRank(down=down, up=up, scaling=settings.scaling)
        left -= {name, part + FACTORS[1]}
    if left:
        msg = f"{where} has unknown tensors: {', '.join(sorted(left)[:3])}"
        raise CheckpointError(msg)
    return found


def copied(added: LowRank, device: torch.device, dtype: torch.dtype) -> LowRank:
    """On a device and in a precision, and of no file that may change."""
    down, up = (factor.to(device, dtype, copy=True) for factor in (added.down, added.up))
    return LowRank(down=down, up=up, scaling=added.scaling)


def side_by_side(parts: Sequence[LowRank | int]) -> LowRank | None:
    """Of a layer whose outputs are those of several layers, stacked. A number: so many without."""
    there = [part for part in parts if isinstance(part, LowRank)]
    if not there:
        return None
    down = torch.cat([part.down for part in there])
    heights = [part if isinstance(part, int) else len(part.up) for part in parts]
    up = down.new_zeros(sum(heights), len(down))
    row = column = 0
    for part, height in zip(parts, heights, strict=True):
        if isinstance(part, LowRank):
            up[row : row + height, column : column + len(part.down)] = part.up
            column += len(part.down)
        row += height
    return LowRank(down=down, up=up, scaling=there[0].scaling)


@torch.no_grad()
def merged(weight: Tensor, adapters: LowRank) -> Tensor:
    """W + scaling B A, summed in at least float32 and rounded once."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    factors = adapters.up.to(wide), adapters.down.to(wide)
    return torch.addmm(weight.to(wide), *factors, alpha=adapters.scaling).to(weight.dtype)
