"""Safetensors files written straight from memory, and checked when they are read.

The layout is that of the safetensors format: 8 bytes header length, a JSON header, the tensors' bytes without
gaps. Tensors that lie side by side in memory go out in one write.
"""

import json
import os
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch.distributed.tensor import DTensor

from trieline.common.checksum import file_crc32
from trieline.common.file_lock import try_lock
from trieline.learner.errors import CheckpointError

ADAPTER_KEY = "adapter_config"
"""Among a file's metadata: the JSON of peft's configuration. Such a file holds adapters alone."""

_DTYPE_NAMES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
# Readers map the file and want the tensors aligned.
_ALIGNMENT = 64


def write_weights(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    metadata: Mapping[str, str] | None = None,
    write_over: Path | None = None,
) -> int:
    """Write tensors to `path`, through a file beside it that is renamed; returns its CRC-32.

    The sum is taken beside the writing: to memory, both take the same time. The file `write_over` is gone
    afterwards; its memory is used again, unless somebody holds it (`reading`). Sharded tensors are gathered
    one after the other, by all ranks at the same time.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    crc = 0
    try:
        with _open_scratch(scratch, write_over) as file, ThreadPoolExecutor(1) as beside:
            for part in (_header(tensors, metadata or {}), *_runs(tensors)):
                summed = beside.submit(zlib.crc32, part, crc)
                view = part
                while view:
                    view = view[file.write(view) :]
                crc = summed.result()
            file.truncate()
        scratch.rename(path)
    finally:
        scratch.unlink(missing_ok=True)
    return crc


def _open_scratch(scratch: Path, write_over: Path | None) -> FileIO:
    if write_over is not None:
        write_over.rename(scratch)
        file = scratch.open("r+b", buffering=0)
        if try_lock(file.fileno()):
            return file
        file.close()
        scratch.unlink()
    return scratch.open("wb", buffering=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedWeights:
    """Name and shape of every weight of a model."""

    shapes: Mapping[str, torch.Size]
    tied: Mapping[str, str]
    """Further names of some of them (a head that is the embedding). A file may repeat them under those."""


def expected_weights(model: torch.nn.Module) -> ExpectedWeights:
    """Those of a loaded model, tied where it really shares them, whatever its config says."""
    shapes: dict[str, torch.Size] = {}
    tied: dict[str, str] = {}
    first_name: dict[int, str] = {}
    for name, tensor in model.state_dict().items():
        first = first_name.setdefault(tensor.data_ptr(), name) if tensor.numel() else name
        if first == name:
            shapes[name] = tensor.shape
        else:
            tied[name] = first
    return ExpectedWeights(shapes=shapes, tied=tied)


def read_weights(
    path: Path, *, expected: ExpectedWeights | None = None, crc32: int | None = None
) -> dict[str, torch.Tensor]:
    """The tensors of `path`, on the CPU, mapped into memory rather than read; all of them, or the `expected`.

    Raises:
        CheckpointError: there is no such file, it is not the one that was written, or a tensor is missing,
            unknown, misshaped, no floating point, or tied to another in the model and not equal to it.
    """
    if not path.is_file():
        msg = f"expected the weights in {path}, found no such file"
        raise CheckpointError(msg)
    if crc32 is not None:
        expect_crc32(path, crc32)
    try:
        with safe_open(path, framework="pt") as file:
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        msg = f"expected a safetensors file in {path}, got: {error}"
        raise CheckpointError(msg) from error
    if expected is None:
        return tensors
    _check_names(path, tensors.keys(), expected)
    _check_values(path, tensors, expected)
    return {name: tensors[name] for name in expected.shapes}


def adapter_config(path: Path) -> str | None:
    """That of a file with adapters; None: it holds whole weights. Raises CheckpointError."""
    try:
        with safe_open(path, framework="np") as file:
            found: str | None = (file.metadata() or {}).get(ADAPTER_KEY)
    except (SafetensorError, OSError) as error:
        msg = f"expected a safetensors file in {path}, got: {error}"
        raise CheckpointError(msg) from error
    return found


def expect_crc32(path: Path, crc32: int) -> None:
    """Raise CheckpointError if the file is not there, or not the one that was written."""
    try:
        with path.open("rb") as file:
            found = file_crc32(file)
    except OSError as error:
        msg = f"expected {path} as it was written, but it can't be read: {error.strerror}"
        raise CheckpointError(msg) from error
    if found != crc32:
        msg = f"corrupt file: expected {path} with CRC-32 {crc32:08x}, got {found:08x}"
        raise CheckpointError(msg)


def _check_names(path: Path, names: Collection[str], expected: ExpectedWeights) -> None:
    missing = sorted(expected.shapes.keys() - names)
    unknown = sorted(set(names) - expected.shapes.keys() - expected.tied.keys())
    for kind, wrong in (("lacks", missing), ("has unknown", unknown)):
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            msg = f"{path} {kind} tensors: {', '.join(wrong[:3])}{more}"
            raise CheckpointError(msg)


def _check_values(path: Path, tensors: Mapping[str, torch.Tensor], expected: ExpectedWeights) -> None:
    for name, shape in expected.shapes.items():
        tensor = tensors[name]
        if tensor.shape != shape or not tensor.is_floating_point():
            msg = (
                f"{path}: expected {name} as floating point {list(shape)}, "
                f"got {tensor.dtype} {list(tensor.shape)}"
            )
            raise CheckpointError(msg)
    for name, first in expected.tied.items():
        if name in tensors and not torch.equal(tensors[name], tensors[first]):
            msg = f"{path}: expected {name} to equal {first}, to which the model ties it, got another one"
            raise CheckpointError(msg)


def _header(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> memoryview:
    entries: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return memoryview(struct.pack("<Q", len(text)) + text)


def _runs(tensors: Mapping[str, torch.Tensor]) -> Iterator[memoryview]:
    """The tensors' bytes in order, neighbours in memory joined."""
    run: torch.Tensor | None = None
    for tensor in tensors.values():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        flat = whole.detach().reshape(-1).cpu()
        if not flat.numel():
            continue
        if run is not None and _follows(run, flat):
            run = run.as_strided((run.numel() + flat.numel(),), (1,))
            continue
        if run is not None:
            yield _bytes_of(run)
        run = flat
    if run is not None:
        yield _bytes_of(run)


def _follows(run: torch.Tensor, flat: torch.Tensor) -> bool:
    return (
        flat.dtype == run.dtype
        and flat.untyped_storage().data_ptr() == run.untyped_storage().data_ptr()
        and flat.storage_offset() == run.storage_offset() + run.numel()
    )


def _bytes_of(run: torch.Tensor) -> memoryview:
    return memoryview(run.contiguous().view(torch.uint8).numpy())  # type: ignore[arg-type]
