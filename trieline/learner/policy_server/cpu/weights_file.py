"""Weights on their way in: a safetensors file, checked against the model before anything is changed."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trieline.learner.policy_server.errors import WeightsError

TIED_HEAD = "lm_head.weight"


def expected_shapes(folder: Path) -> dict[str, torch.Size]:
    """Name and shape of every weight of the model in `folder`, a tied head left out."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, trust_remote_code=False
        )
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if getattr(config, "tie_word_embeddings", False):
        shapes.pop(TIED_HEAD, None)
    return shapes


def read_weights(path: Path, expected: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The weights in `path`, mapped into memory rather than read. A tied head may be there or not.

    Raises:
        WeightsError: the file can't be read, or a tensor is missing, unknown, misshaped or no floating point.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            _check_names(path, names, expected)
            tensors = {name: file.get_tensor(name) for name in expected}
    except (OSError, SafetensorError) as error:
        msg = f"can't read the weights in {path}: {error}"
        raise WeightsError(msg) from error
    for name, tensor in tensors.items():
        if tensor.shape != expected[name] or not tensor.is_floating_point():
            msg = (
                f"{path}: expected {name} as floating point {list(expected[name])}, "
                f"got {tensor.dtype} {list(tensor.shape)}"
            )
            raise WeightsError(msg)
    return tensors


def _check_names(path: Path, names: set[str], expected: Mapping[str, torch.Size]) -> None:
    missing = sorted(expected.keys() - names)
    unknown = sorted(names - expected.keys() - {TIED_HEAD})
    for kind, wrong in (("lacks", missing), ("has unknown", unknown)):
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            msg = f"{path} {kind} tensors: {', '.join(wrong[:3])}{more}"
            raise WeightsError(msg)
