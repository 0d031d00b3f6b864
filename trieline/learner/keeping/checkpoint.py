"""Checkpoints: `checkpoints/step_N/`, finished by rename, from which a run goes on bit for bit.

`model/` is an ordinary Hugging Face folder with the float32 master weights: `from_pretrained` opens it. Where
adapters are trained, they alone are saved, as peft saves them, in `adapter/`; its `from_pretrained` opens it.
`trainer/` is the rest: `state.json`, and `optimizer.safetensors` with the moments, the value head and the
state of the random generator. Where several ranks train, each of them writes its shards of moments and value
head to a file of its own (`keeping.shards`); any number of ranks goes on from either. CRC-32 of every tensor
file is in `state.json`. Nothing is pickled.
"""

import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch

from trieline.common.folders import replace_folder, scratch_folder
from trieline.learner.errors import CheckpointError
from trieline.learner.keeping.shards import is_sharded, read_shards, read_whole, write_shards
from trieline.learner.keeping.weight_file import expect_crc32, read_weights, write_weights
from trieline.learner.model_folder.model_source import BUILD_RECORD
from trieline.learner.ranks.group import Ranks

log = logging.getLogger(__name__)

FORMAT = 2
READABLE_FORMATS = (1, 2)
"""Format 1 had each moment as one flat tensor."""
WEIGHTS_FILE = "model/model.safetensors"
ADAPTER_FOLDER = "adapter"
ADAPTER_FILE = "adapter/adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
TRAINER_FOLDER = "trainer"
TRAINER_FILE = f"{TRAINER_FOLDER}/optimizer.safetensors"
STATE_FILE = f"{TRAINER_FOLDER}/state.json"

_STEP_FOLDER = re.compile(r"step_(\d+)")
_SHARD = re.compile(rf"{TRAINER_FOLDER}/shard-[\w-]+\.safetensors")
_NOT_COPIED = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack"}


class TrainerState(msgspec.Struct, frozen=True, kw_only=True):
    """What a run knows beside its tensors."""

    step: int
    policy_version: int
    """Updates of the weights so far, those of the warm start included."""
    records_taken: int
    """Records of the journal that the steps so far have used up; the next step begins with this one."""
    warm_started: bool
    skipped_in_a_row: int
    curriculum: dict[str, Any]
    format: int = FORMAT
    crc32: dict[str, int] = {}
    """Of each tensor file, by its path in the checkpoint. Filled in by `save_checkpoint`."""


def save_checkpoint(
    folder: Path,
    state: TrainerState,
    *,
    source_model: Path,
    weights: Mapping[str, torch.Tensor],
    trainer: Mapping[str, torch.Tensor],
    keep: int,
    adapter_config: str | None = None,
    ranks: Ranks | None = None,
) -> Path:
    """Write `folder/step_N` and remove older ones beyond the newest `keep`.

    Args:
        folder: the run's `checkpoints/`.
        state: N is its step.
        source_model: whose config, tokenizer and chat template go with the weights.
        weights: float32, by the names of the Hugging Face model.
        trainer: everything else that is a tensor.
        keep: how many checkpoints stay.
        adapter_config: peft's, of `weights` that are adapters. None: they are the model's.
        ranks: whose other members gather `weights` and then write their part of `trainer` at the same time.

    Raises:
        CheckpointError: the disk is full, or does not take it otherwise.
    """
    target = folder / f"step_{state.step}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, target, state, source_model, weights, trainer, adapter_config, ranks)
    except FileNotFoundError:
        # Of the model's folder, which was there at the start: nothing that the disk could not take.
        raise
    except OSError as error:
        msg = f"can't write the checkpoint {target}: {error.strerror}{_of(error)}"
        raise CheckpointError(msg) from error
    for _, old in _checkpoints(folder)[:-keep]:
        if old != target:
            shutil.rmtree(old, ignore_errors=True)
    log.info("checkpoint %s", target)
    return target


def _write(
    folder: Path,
    target: Path,
    state: TrainerState,
    source_model: Path,
    weights: Mapping[str, torch.Tensor],
    trainer: Mapping[str, torch.Tensor],
    adapter_config: str | None,
    ranks: Ranks | None,
) -> None:
    whole = {name: tensor for name, tensor in trainer.items() if not is_sharded(tensor)}
    with scratch_folder(folder, prefix=f".{target.name}-") as scratch:
        if adapter_config is None:
            weights_file = WEIGHTS_FILE
            copy_model_files(source_model, scratch / "model")
        else:
            weights_file = ADAPTER_FILE
            (scratch / ADAPTER_FOLDER).mkdir()
            (scratch / ADAPTER_FOLDER / ADAPTER_CONFIG).write_text(adapter_config)
        (scratch / TRAINER_FOLDER).mkdir()
        crc32 = {
            weights_file: write_weights(scratch / weights_file, weights),
            TRAINER_FILE: write_weights(scratch / TRAINER_FILE, whole),
        }
        if ranks is not None:
            shards = write_shards(scratch / TRAINER_FOLDER, trainer, ranks)
            crc32 |= {f"{TRAINER_FOLDER}/{name}": crc for name, crc in shards.items()}
        written = msgspec.structs.replace(state, crc32=crc32)
        (scratch / STATE_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(written), indent=1))
        replace_folder(scratch, target)


def _of(error: OSError) -> str:
    return f" ({error.filename})" if error.filename else ""


def sweep_checkpoints(folder: Path) -> None:
    """Remove what killed learners left unfinished; the caller holds the run's lock, so that none is at work.

    A checkpoint that was put aside for one of the same step, and killed before that took its place, returns.
    """
    for left in folder.glob(".step_*"):
        name, _, what = left.name.removeprefix(".").partition("-")
        if what.startswith("retired") and not (folder / name).exists():
            left.rename(folder / name)
            log.warning("%s was being replaced when the learner ended; it is back", folder / name)
        else:
            shutil.rmtree(left, ignore_errors=True)


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step; None if there is none."""
    found = _checkpoints(folder)
    return found[-1][1] if found else None


def read_state(checkpoint: Path) -> TrainerState:
    """The state of a checkpoint, its tensor files checked against it.

    Raises:
        CheckpointError: a file is missing or corrupt, or of another format; names the file.
    """
    path = checkpoint / STATE_FILE
    try:
        state = msgspec.json.decode(path.read_bytes(), type=TrainerState)
    except OSError as error:
        msg = f"expected a checkpoint in {checkpoint}, but {path} can't be read: {error.strerror}"
        raise CheckpointError(msg) from error
    except msgspec.MsgspecError as error:
        msg = f"corrupt checkpoint: {path}: {error}"
        raise CheckpointError(msg) from error
    files = {name for name in state.crc32 if not _SHARD.fullmatch(name)}
    known = files in ({WEIGHTS_FILE, TRAINER_FILE}, {ADAPTER_FILE, TRAINER_FILE})
    if state.format not in READABLE_FORMATS or not known:
        msg = f"expected a checkpoint of format {FORMAT} or older in {path}, got format {state.format}"
        raise CheckpointError(msg)
    return state


def read_model_weights(checkpoint: Path, state: TrainerState) -> dict[str, torch.Tensor]:
    """Float32 master weights of the model or of adapters. Raises CheckpointError."""
    name = WEIGHTS_FILE if WEIGHTS_FILE in state.crc32 else ADAPTER_FILE
    return read_weights(checkpoint / name, crc32=state.crc32[name])


def read_trainer_tensors(
    checkpoint: Path,
    state: TrainerState,
    *,
    into: Mapping[str, torch.Tensor] | None = None,
    ranks: Ranks | None = None,
) -> dict[str, torch.Tensor]:
    """What was saved as `trainer`; by `ranks`, its shards of what others wrote in shards.

    `into`: such tensors, of which the sharded ones are filled. Raises CheckpointError.
    """
    shards = sorted(name for name in state.crc32 if _SHARD.fullmatch(name))
    first, step = (0, 1) if ranks is None else (ranks.rank, ranks.size)
    for name in shards[first::step]:
        expect_crc32(checkpoint / name, state.crc32[name])
    whole = read_weights(checkpoint / TRAINER_FILE, crc32=state.crc32[TRAINER_FILE])
    if not shards:
        return whole
    if ranks is None or into is None:
        return read_whole(checkpoint / TRAINER_FOLDER)
    sharded = {name: tensor for name, tensor in into.items() if is_sharded(tensor)}
    read_shards(checkpoint / TRAINER_FOLDER, sharded, ranks)
    return {**whole, **sharded}


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    found = [(match, path) for path in folder.glob("step_*") if (match := _STEP_FOLDER.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in found)


def copy_model_files(source: Path, target: Path) -> None:
    """Config, tokenizer and chat template to a new folder; the config of the precision that is saved here."""
    target.mkdir()
    for path in source.iterdir():
        weights = path.suffix in _NOT_COPIED or path.name.endswith(".index.json")
        if path.is_file() and not weights and path.name != BUILD_RECORD:
            shutil.copyfile(path, target / path.name)
    config = json.loads((source / "config.json").read_text())
    config.pop("torch_dtype", None)
    config["dtype"] = "float32"
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
