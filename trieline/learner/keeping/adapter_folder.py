"""Adapters in a folder, as peft keeps them, and the whole model that they make with their base."""

from pathlib import Path

import torch

from trieline.common.folders import replace_folder, scratch_folder
from trieline.learner.errors import CheckpointError
from trieline.learner.keeping.checkpoint import ADAPTER_CONFIG, ADAPTER_FILE, ADAPTER_FOLDER, copy_model_files
from trieline.learner.keeping.weight_file import read_weights, write_weights
from trieline.learner.model_folder.adapter_weights import low_ranks, merged, read_settings
from trieline.learner.model_folder.loading import load_causal_lm
from trieline.learner.model_folder.model_source import prepare_model


def find_adapters(folder: Path) -> Path:
    """The folder with adapters: `folder` itself, or that of a checkpoint. Raises CheckpointError."""
    for found in (folder, folder / ADAPTER_FOLDER):
        if (found / ADAPTER_CONFIG).is_file():
            return found
    msg = (
        f"expected adapters in {folder} ({ADAPTER_CONFIG}, or {ADAPTER_FOLDER}/ of a checkpoint), found none"
    )
    raise CheckpointError(msg)


def merge_adapters(adapters: Path, target: Path, *, base: str | None = None) -> Path:
    """Write the model with its adapters merged as the new folder `target`, in float32; returns its base.

    Args:
        adapters: a folder as `find_adapters` gives it.
        target: a Hugging Face folder that needs no peft.
        base: whatever `model.path` takes. None: the model whose adapters these say they are.

    Raises:
        CheckpointError: they can't be read, do not fit the model, or `target` is there.
        ModelSourceError: there is no such model.
    """
    if target.exists():
        msg = f"expected a folder that is not there yet, got {target}"
        raise CheckpointError(msg)
    path = adapters / ADAPTER_CONFIG
    settings = read_settings(path.read_bytes(), where=path)
    base = base or settings.base_model_name_or_path
    if base is None:
        msg = f"{path} does not say of which model the adapters are: give it with --base"
        raise CheckpointError(msg)
    folder = prepare_model(base)
    model = load_causal_lm(folder, torch.float32)
    weights_file = adapters / Path(ADAPTER_FILE).name
    # Without the further names of tied weights, as checkpoints have them.
    own = {name: parameter.detach() for name, parameter in model.named_parameters()}
    shapes = {name: tensor.shape for name, tensor in own.items()}
    for name, added in low_ranks(read_weights(weights_file), settings, shapes, where=weights_file).items():
        own[name] = merged(own[name], added)
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(target.parent, prefix=f".{target.name}-") as scratch:
        copy_model_files(folder, scratch / "model")
        write_weights(scratch / "model" / "model.safetensors", own)
        replace_folder(scratch / "model", target)
    return folder
