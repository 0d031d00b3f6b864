"""Rows of a Parquet file that people brought, as the fields of lines."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trieline.actors.errors import ConversationError

ROWS_AT_ONCE = 256


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """One after the other.

    Raises:
        ConversationError: pyarrow is not installed, or the file is none of Parquet.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        msg = f"{path}: Parquet needs pyarrow, which is not installed; JSON Lines (.jsonl) need nothing"
        raise ConversationError(msg) from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE):
                yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        msg = f"expected Parquet in {path}, got: {error}"
        raise ConversationError(msg) from error
