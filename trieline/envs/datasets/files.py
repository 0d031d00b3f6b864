"""The files in which data sets are published and kept, and the records in them.

A file of JSON Lines, JSON, Parquet or Arrow, or the folder of a data set as it is downloaded from Hugging
Face or written by `save_to_disk`: `data/test-00000-of-00001.parquet`, `test.jsonl`,
`test/data-00000-of-00001.arrow` and the like, where a split gives its name to the file or to the folder.
"""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from trieline.envs.datasets.records import Record, is_json_file, read_records
from trieline.envs.errors import DataError

MOST_FILES = 10_000
"""Of one split."""

_TABLES = (".parquet", ".arrow")
_SHARD = re.compile(r"(.*?)(?:-\d+-of-\d+(?:-[0-9a-f]+)?)?")
_NOT_ROWS = frozenset({"dataset_dict", "dataset_info", "dataset_infos", "state", "README"})
_UNNAMED = frozenset({"data", "dataset"})
"""Names of files and folders that are no split's."""
_BATCH_ROWS = 64


def records_of(
    path: Path, split: str | None = None, *, columns: Collection[str] | None = None
) -> Iterator[tuple[str, Record]]:
    """The records in a file, or of one split of a folder, in order, each with its file and place in it.

    Args:
        path: a file or the folder of a data set.
        split: which one, where a folder has several (`test`, `train`).
        columns: those of a table that are read. None: all.

    Raises:
        DataError: a record can't be read, there is no such split, or Parquet is to be read and pyarrow is
            not installed.
        OSError: a file can't be opened; names it.
    """
    if split is not None and not path.is_dir():
        msg = f"expected a folder of which {split!r} is a split, got {path}"
        raise DataError(msg)
    for file in _files_of_split(path, split) if path.is_dir() else [path]:
        for record in _records(file, columns):
            place = f"{file}, {record.place}"
            if record.problem is not None:
                msg = f"{place}: {record.problem}"
                raise DataError(msg)
            yield place, record


def splits_in(folder: Path) -> frozenset[str]:
    """Names of the splits of a folder. OSError if it can't be read."""
    return frozenset(_splits(folder))


def _splits(folder: Path) -> dict[str, list[Path]]:
    """Files with rows, by name, of each split."""
    splits: dict[str, list[Path]] = {}
    for place in (folder, *sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))):
        for file in sorted(place.iterdir()):
            name = _split_of(file)
            if file.is_file() and name is not None:
                splits.setdefault(name, []).append(file)
    return splits


def _files_of_split(folder: Path, split: str | None) -> list[Path]:
    """Files with rows, by name. Several splits and none chosen is an error."""
    splits = _splits(folder)
    found = ", ".join(sorted(splits)) or "no file with rows"
    if split is None and len(splits) != 1:
        msg = f"expected one split in {folder}, or the name of one, got {found}"
        raise DataError(msg)
    files = splits.get(split) if split is not None else next(iter(splits.values()))
    if files is None:
        msg = f"expected the split {split!r} in {folder}, got {found}"
        raise DataError(msg)
    if len(files) > MOST_FILES:
        msg = f"expected at most {MOST_FILES:,} files of a split in {folder}, got {len(files):,}"
        raise DataError(msg)
    return files


def _split_of(file: Path) -> str | None:
    """The split that a file of a data set belongs to; None: it holds no rows."""
    stem = file.name.partition(".")[0]
    if stem in _NOT_ROWS or not (file.suffix in _TABLES or is_json_file(file)):
        return None
    match = _SHARD.fullmatch(stem)
    assert match is not None
    return file.parent.name if match[1] in _UNNAMED else match[1]


def _records(file: Path, columns: Collection[str] | None) -> Iterator[Record]:
    if file.suffix in _TABLES:
        return _table_records(file, columns)
    return read_records(file)


def _table_records(file: Path, columns: Collection[str] | None) -> Iterator[Record]:
    try:
        import pyarrow
    except ImportError as error:
        msg = (
            f"{file}: Parquet and Arrow need pyarrow, which is not installed: pip install 'trieline[export]'"
        )
        raise DataError(msg) from error
    with file.open("rb") as opened:
        try:
            number = 0
            for batch in _batches(file, opened, columns):
                for value in batch.to_pylist():
                    number += 1
                    yield Record(place=f"row {number}", value=value)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            msg = f"{file}: expected a table of {file.suffix[1:].capitalize()}: {error}"
            raise DataError(msg) from error


def _batches(file: Path, opened: Any, wanted: Collection[str] | None) -> Iterator[Any]:
    import pyarrow.ipc
    import pyarrow.parquet

    if file.suffix == ".arrow":
        with pyarrow.ipc.open_stream(opened) as reader:
            for batch in reader:
                yield batch.select([n for n in batch.schema.names if wanted is None or n in wanted])
        return
    with pyarrow.parquet.ParquetFile(opened) as parquet:
        columns = [n for n in parquet.schema_arrow.names if wanted is None or n in wanted]
        yield from parquet.iter_batches(batch_size=_BATCH_ROWS, columns=columns)
