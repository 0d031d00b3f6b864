"""Whole trees as a table: one row a tree, with every column of it, and what it was delivered with.

The columns are those of `wire.tree.TrajectoryTree`. An unknown entropy is null, and notes are pairs.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import numpy as np

from trieline.launcher.export import Row, Table
from trieline.wire.messages import TreeDelivery
from trieline.wire.tree import TrajectoryTree

_SENT = ("actor_id", "sequence_number", "assignment_id", "run_id", "purpose")


def tree_rows(deliveries: Iterable[TreeDelivery]) -> Iterator[Row]:
    """One row for each tree."""
    for delivery in deliveries:
        row: Row = {name: getattr(delivery, name) for name in _SENT}
        for name, value in msgspec.structs.asdict(delivery.tree).items():
            row[name] = _plain(value)
        yield row


def tree_of(row: Row) -> TrajectoryTree:
    """The tree in a row of JSON or Parquet. Raises TreeError: it is none."""
    columns: dict[str, Any] = {"env_id": row["env_id"], "task_id": row["task_id"], "level": row["level"]}
    for name, kind in _ARRAYS.items():
        values = [np.nan if value is None else value for value in row[name]]
        columns[name] = np.array(values, kind)
    for name in ("fork_causes", "leaf_causes", "edge_kinds"):
        columns[name] = tuple(row[name])
    columns["entropies_estimated"] = bool(row["entropies_estimated"])
    tree = TrajectoryTree(**columns, info={note["name"]: note["text"] for note in row["info"]})
    tree.validate()
    return tree


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        plain = value.tolist()
        return [None if v != v else v for v in plain] if value.dtype == np.float32 else plain
    if isinstance(value, dict):
        return [{"name": name, "text": text} for name, text in value.items()]
    return list(value) if isinstance(value, tuple) else value


_ARRAYS: dict[str, type[np.generic]] = {
    "parents": np.int32,
    "node_offsets": np.int32,
    "sampled": np.bool_,
    "rewards": np.float32,
    "token_ids": np.int32,
    "behavior_logprobs": np.float32,
    "entropies": np.float32,
    "policy_versions": np.int32,
    "leaf_nodes": np.int32,
    "leaf_terminated": np.bool_,
    "leaf_groups": np.int32,
    "mask_index": np.int32,
    "mask_offsets": np.int32,
    "mask_runs": np.int32,
    "edge_sources": np.int32,
    "edge_targets": np.int32,
}


def _schema(pyarrow: Any) -> Any:
    text, integer = pyarrow.string(), pyarrow.int64()
    kinds = {np.int32: pyarrow.int32(), np.float32: pyarrow.float32(), np.bool_: pyarrow.bool_()}
    fields = {"actor_id": text, "sequence_number": integer, "assignment_id": integer}
    fields |= {"run_id": text, "purpose": text, "env_id": text, "task_id": text, "level": integer}
    for field in msgspec.structs.fields(TrajectoryTree):
        if field.name in _ARRAYS:
            fields[field.name] = pyarrow.list_(kinds[_ARRAYS[field.name]])
        elif field.name == "info":
            fields["info"] = pyarrow.list_(pyarrow.struct([("name", text), ("text", text)]))
        elif field.name == "entropies_estimated":
            fields[field.name] = pyarrow.bool_()
        elif field.name not in fields:
            fields[field.name] = pyarrow.list_(text)
    return pyarrow.schema(list(fields.items()))


TREES = Table(rows=tree_rows, schema=_schema, noun="trees")
