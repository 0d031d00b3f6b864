"""LoRA (arXiv 2106.09685): of a linear layer W only a product of low rank is trained, beside W.

    y = x W^T + (alpha / r) x A^T B^T        A [r, in], B [out, r], B = 0 at the start

peft puts the adapters into the model and computes with them. Outside of the model they have peft's names and
come with peft's `adapter_config.json` (`model_folder.adapter_weights`), so that whatever reads adapters reads
these.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor, nn

from trieline.learner.config import LoraConfig
from trieline.learner.errors import LearnerError
from trieline.learner.model.hub_programs import without_kernels
from trieline.learner.model.tree_forward import model_name
from trieline.learner.model_folder.adapter_weights import FACTORS, PREFIX

NAME = "default"
"""peft's name of the one adapter that is there."""


class Adapters:
    """The adapters inside a model, whose own weights no longer take gradients."""

    def __init__(self, hf_model: Any, config: LoraConfig, base: Path) -> None:
        """Put them in; the model computes as before. `base`: the folder of the model.

        Raises:
            LearnerError: peft is not installed, or a target is no linear layer inside the model's layers.
        """
        try:
            import peft
        except ModuleNotFoundError as error:
            if error.name != "peft":
                raise
            msg = "learner.lora needs peft, which is not installed: pip install 'trieline[learner,peft]'"
            raise LearnerError(msg) from error
        settings = peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            target_modules=_targets(hf_model, config),
            task_type="CAUSAL_LM",
            base_model_name_or_path=str(base),
            inference_mode=True,
        )
        with without_kernels():  # peft imports bitsandbytes where that is installed
            peft.inject_adapter_in_model(settings, hf_model, adapter_name=NAME)
        for name, parameter in hf_model.named_parameters():
            parameter.requires_grad_(_is_factor(name))
        self.config_json = _config_json(settings)

    def published(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By peft's names, what stands under the model's own."""
        return {PREFIX + name.replace(f".{NAME}.", "."): t for name, t in weights.items()}

    def own(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By the model's own names, what stands under peft's."""
        names = {f: f.removesuffix("weight") + f"{NAME}.weight" for f in FACTORS}
        return {
            name.removeprefix(PREFIX).removesuffix(factor) + names[factor]: tensor
            for name, tensor in weights.items()
            for factor in FACTORS
            if name.endswith(factor)
        }


def switched_off(hf_model: Any) -> AbstractContextManager[None]:
    """Inside, the adapters of `hf_model` add nothing: it computes with its own weights alone."""
    from peft.helpers import rescale_adapter_scale

    # peft's own switch would also change which parameters take gradients.
    off: AbstractContextManager[None] = rescale_adapter_scale(hf_model, 0.0)
    return off


def _targets(hf_model: Any, config: LoraConfig) -> list[str]:
    """The names, last parts of a module's, of the linear layers that get adapters."""
    linear = {
        name.rpartition(".")[2]: name
        for name, module in hf_model.named_modules()
        if isinstance(module, nn.Linear) and module is not hf_model.get_output_embeddings()
    }
    if config.targets == "all-linear":
        return sorted(linear)
    unknown = [target for target in config.targets if target not in linear]
    if unknown:
        msg = (
            f"learner.lora.targets: {model_name(hf_model)} has no linear layer {', '.join(unknown)} inside "
            f"its layers; expected some of {', '.join(sorted(linear))}, or 'all-linear'"
        )
        raise LearnerError(msg)
    return sorted(config.targets)


def _is_factor(name: str) -> bool:
    return name.endswith(tuple(f.removesuffix("weight") + f"{NAME}.weight" for f in FACTORS))


def _config_json(settings: Any) -> str:
    """As peft saves it: sets as lists, in an order that is the same every time."""
    plain = {
        name: sorted(value) if isinstance(value, set) else value for name, value in settings.to_dict().items()
    }
    return msgspec.json.format(msgspec.json.encode(plain, enc_hook=str, order="sorted"), indent=2).decode()
