"""Sharded tensors on the disk: each rank writes its own, and any number of ranks reads them again.

torch's distributed checkpoints, in safetensors files: where a shard belongs stands in the header of its file,
and nothing is pickled into a checkpoint.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import torch
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.tensor import DTensor

from trieline.common.checksum import file_crc32
from trieline.learner.errors import CheckpointError
from trieline.learner.ranks.group import Ranks

SHARDS = "shard-*.safetensors"


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether this rank has a part of it alone."""
    return isinstance(tensor, DTensor)


def gather_whole(tensors: Mapping[str, torch.Tensor]) -> None:
    """The part in gathering `tensors` one after the other of a rank that does not write them."""
    for tensor in tensors.values():
        if isinstance(tensor, DTensor):
            tensor.full_tensor()


def write_shards(folder: Path, tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> dict[str, int]:
    """Write the sharded ones of `tensors`, by all ranks at the same time; CRC-32 of each file by its name.

    `folder` as rank 0 names it, which all ranks have to see.

    Raises:
        CheckpointError: a rank does not see it.
    """
    folder = Path(ranks.share([str(folder.absolute()).encode()] if ranks.rank == 0 else [])[0].decode())
    _expect_seen(folder, ranks)
    sharded = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, DTensor)}
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _quiet():
        state_dict_saver.save(sharded, storage_writer=writer, process_group=ranks.group)
    # Each rank reads some of the files, which are still in memory somewhere.
    own = sorted(folder.glob(SHARDS))[ranks.rank :: ranks.size]
    found: dict[str, int] = {}
    for part in ranks.gather(msgspec.msgpack.encode({path.name: _crc32(path) for path in own})):
        found |= msgspec.msgpack.decode(part, type=dict[str, int])
    return found


def read_shards(folder: Path, into: Mapping[str, torch.Tensor], ranks: Ranks) -> None:
    """Fill sharded and whole tensors from the files of `folder`, each rank its part.

    Raises:
        CheckpointError: one of them is not there, or of another shape.
    """
    reader = HuggingFaceStorageReader(str(folder))
    saved = reader.read_metadata().state_dict_metadata
    for name, tensor in into.items():
        found = tuple(saved[name].size) if name in saved else None  # type: ignore[union-attr]
        if found != tuple(tensor.shape):
            msg = f"expected {name} of shape {tuple(tensor.shape)} in {folder}, got {found} (None: not there)"
            raise CheckpointError(msg)
    with _quiet():
        state_dict_loader.load(dict(into), storage_reader=reader, process_group=ranks.group)


def read_whole(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the files of `folder`, on one process."""
    reader = HuggingFaceStorageReader(str(folder))
    whole: dict[str, torch.Tensor] = {
        name: torch.empty(found.size, dtype=found.properties.dtype)  # type: ignore[union-attr]
        for name, found in reader.read_metadata().state_dict_metadata.items()
    }
    with _quiet():
        state_dict_loader.load(whole, storage_reader=reader, no_dist=True)
    return whole


def _expect_seen(folder: Path, ranks: Ranks) -> None:
    seen = ranks.gather(b"1" if folder.is_dir() else b"")
    blind = [name for name, found in zip(ranks.names, seen, strict=True) if not found]
    if blind:
        msg = (
            f"expected the run folder on a file system that all machines share, {', '.join(blind)} does not "
            f"see {folder}"
        )
        raise CheckpointError(msg)


def _crc32(path: Path) -> int:
    with path.open("rb") as file:
        return file_crc32(file)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's notes on what it is about to do."""
    logger = logging.getLogger("torch.distributed.checkpoint")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
