"""Journals as tables for other trainers; the first has a row for each sequence and what its tree says of it.

The columns that most take: `prompt_ids` (what stands before the first sampled token), `response_ids` (the
rest) and, over the response's tokens, `response_mask` (1: sampled), `rollout_logprobs`, `version` (of the
weights, -1 on context), `node_id` and `parent_id`; `reward` is the sum over the sequence, `trajectory_id` its
name.

Beside them what the tree says more: `rollout_entropies` and `mask_id` (null: unknown, no mask), `masks` (the
runs of allowed tokens of each mask of the tree), `edges` (source, target and kind), `leaf_group`, and of the
sequence's end `terminated` and `cause` (not "": broken, and its reward says nothing).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from trieline.common.folders import whole_file
from trieline.config import ConfigError
from trieline.wire.messages import TreeDelivery

ROWS_AT_ONCE = 1024

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A kind of table that trees are exported as."""

    rows: Callable[[Iterable[TreeDelivery]], Iterator[Row]]
    """What goes into a file of JSON Lines."""
    schema: Callable[[Any], Any]
    """Of Parquet, given pyarrow."""
    flat: Callable[[Row], Row] = dict
    """A row as Parquet holds it."""
    noun: str


def rows(deliveries: Iterable[TreeDelivery]) -> Iterator[Row]:
    """One row for each sequence, broken ones too."""
    for delivery in deliveries:
        tree = delivery.tree
        masks = [tree.mask(m).tolist() for m in range(tree.num_masks)]
        edges = [
            {"source": source, "target": target, "kind": kind}
            for source, target, kind in zip(
                tree.edge_sources.tolist(), tree.edge_targets.tolist(), tree.edge_kinds, strict=True
            )
        ]
        for leaf, earned in enumerate(tree.sequence_returns()):
            yield _row(delivery, leaf, earned, masks=masks, edges=edges)


def write_json_lines(table: Iterable[Row], file: TextIO) -> int:
    """Returns the number of rows."""
    count = 0
    for row in table:
        file.write(json.dumps(row) + "\n")
        count += 1
    return count


def write_parquet(table: Iterable[Row], path: Path, schema_of: Callable[[Any], Any]) -> int:
    """Returns the number of rows. `schema_of` is given pyarrow.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        msg = "Parquet needs pyarrow, which is not installed; JSON Lines (.jsonl) need nothing"
        raise ConfigError(msg) from error
    schema, count = schema_of(pyarrow), 0
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        table = iter(table)
        while some := list(islice(table, ROWS_AT_ONCE)):
            writer.write_table(pyarrow.Table.from_pylist(some, schema=schema))
            count += len(some)
    return count


def export(deliveries: Iterable[TreeDelivery], path: Path, table: Table) -> int:
    """Write the file at `path`, `.jsonl` or `.parquet`, whole or not at all. Returns the number of rows.

    Raises:
        ConfigError: it is of another kind, can't be written, or Parquet can't be.
    """
    if path.suffix not in (".jsonl", ".parquet"):
        msg = f"expected a file that ends with .jsonl or .parquet, got {path}"
        raise ConfigError(msg)
    found = table.rows(deliveries)
    try:
        with whole_file(path) as scratch:
            if path.suffix == ".jsonl":
                return _write_json_file(found, scratch)
            return write_parquet(map(table.flat, found), scratch, table.schema)
    except OSError as error:
        msg = f"can't write {path}: {error}"
        raise ConfigError(msg) from error


def _write_json_file(table: Iterable[Row], path: Path) -> int:
    with path.open("w", encoding="utf-8") as file:
        return write_json_lines(table, file)


def _row(
    delivery: TreeDelivery, leaf: int, earned: float, *, masks: list[list[int]], edges: list[Row]
) -> Row:
    """`earned` is the return of its episode; `masks` and `edges` are the whole tree's."""
    tree = delivery.tree
    index = tree.sequence_index(leaf)
    nodes = tree.token_nodes[index]
    sampled = tree.sampled[nodes]
    begin = int(sampled.argmax()) if sampled.any() else len(index)
    response, nodes, sampled = index[begin:], nodes[begin:], sampled[begin:]
    entropies = tree.entropies[response]
    mask_ids = tree.mask_index[response] if tree.num_masks else np.full(len(response), -1)
    return {
        "prompt_ids": tree.token_ids[index[:begin]].tolist(),
        "response_ids": tree.token_ids[response].tolist(),
        "response_mask": sampled.astype(int).tolist(),
        "rollout_logprobs": tree.behavior_logprobs[response].tolist(),
        "reward": earned,
        "trajectory_id": f"{delivery.actor_id}/{delivery.sequence_number}/{leaf}",
        "version": tree.policy_versions[response].tolist(),
        "node_id": nodes.tolist(),
        "parent_id": tree.parents[nodes].tolist(),
        "rollout_entropies": _with_null(entropies.tolist(), np.isnan(entropies)),
        "mask_id": _with_null(mask_ids.tolist(), mask_ids < 0),
        "masks": masks,
        "edges": edges,
        "leaf_group": int(tree.comparison_groups[leaf]),
        "terminated": bool(tree.leaf_terminated[leaf]),
        "cause": tree.leaf_causes[leaf],
        "env_id": tree.env_id,
        "task_id": tree.task_id,
        "level": tree.level,
    }


def _with_null(values: Sequence[Any], missing: Iterable[bool]) -> list[Any]:
    return [None if is_missing else value for value, is_missing in zip(values, missing, strict=True)]


def _parquet_schema(pyarrow: Any) -> Any:
    integer, number, text = pyarrow.int32(), pyarrow.float32(), pyarrow.string()
    integers, numbers = pyarrow.list_(integer), pyarrow.list_(number)
    edge = pyarrow.struct([("source", integer), ("target", integer), ("kind", text)])
    kinds = {
        "reward": pyarrow.float64(),
        "trajectory_id": text,
        "rollout_logprobs": numbers,
        "rollout_entropies": numbers,
        "masks": pyarrow.list_(integers),
        "edges": pyarrow.list_(edge),
        "leaf_group": integer,
        "terminated": pyarrow.bool_(),
        "cause": text,
        "env_id": text,
        "task_id": text,
        "level": pyarrow.int64(),
    }
    return pyarrow.schema([(name, kinds.get(name, integers)) for name in COLUMNS])


COLUMNS = (
    "prompt_ids", "response_ids", "response_mask", "rollout_logprobs", "reward", "trajectory_id", "version",
    "node_id", "parent_id", "rollout_entropies", "mask_id", "masks", "edges", "leaf_group", "terminated",
    "cause", "env_id", "task_id", "level",
)  # fmt: skip
"""In the order of a row."""

SEQUENCES = Table(rows=rows, schema=_parquet_schema, noun="sequences")
