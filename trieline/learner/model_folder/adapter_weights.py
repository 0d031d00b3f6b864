"""Adapters of LoRA outside of a model: under peft's names, with peft's `adapter_config.json`, and merged.

W + (alpha / r) B A        A [r, in], B [out, r], of the linear layer W [out, in]
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

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


def merged_weights(
    base: Mapping[str, Tensor], adapters: Mapping[str, Tensor], settings: AdapterSettings, *, where: object
) -> dict[str, Tensor]:
    """All of `base`, with W + scaling B A where there are adapters; summed in float32, rounded once.

    Raises:
        CheckpointError: adapters of parts that the model does not have, or of other shapes, or halves of one.
    """
    merged = dict(base)
    left = set(adapters)
    for name, down in adapters.items():
        if not name.endswith(FACTORS[0]):
            continue
        part = name.removesuffix(FACTORS[0])
        target = part.removeprefix(PREFIX) + ".weight"
        up = adapters.get(part + FACTORS[1])
        weight = base.get(target)
        found = [list(t.shape) for t in (down, up) if t is not None]
        if weight is None or weight.ndim != 2 or up is None:
            msg = f"{where}: expected both factors of a linear layer {target}, got {name} {found}"
            raise CheckpointError(msg)
        outputs, inputs = weight.shape
        if found != (expected := [[settings.r, inputs], [outputs, settings.r]]):
            msg = f"{where}: expected factors {expected} of {target}, got {found}"
            raise CheckpointError(msg)
        merged[target] = _merged(weight, down, up, settings.scaling)
        left -= {name, part + FACTORS[1]}
    if left:
        msg = f"{where} has unknown tensors: {', '.join(sorted(left)[:3])}"
        raise CheckpointError(msg)
    return merged


@torch.no_grad()
def _merged(weight: Tensor, down: Tensor, up: Tensor, scaling: float) -> Tensor:
    wide = torch.promote_types(weight.dtype, torch.float32)
    return torch.addmm(weight.to(wide), up.to(wide), down.to(wide), alpha=scaling).to(weight.dtype)
