import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pyarrow.parquet import read_table

from tests.trees import random_tree
from tests.wire.test_tree import two_rollouts, with_later_columns
from trieline.config import ConfigError
from trieline.launcher.export import COLUMNS, SEQUENCES, export, rows
from trieline.wire.errors import JournalError
from trieline.wire.messages import TreeDelivery
from trieline.wire.tree import TrajectoryTree


def delivery(tree: TrajectoryTree, number: int = 3) -> TreeDelivery:
    return TreeDelivery(actor_id="actor", sequence_number=number, assignment_id=0, tree=tree)


def test_the_rows_of_the_example() -> None:
    entropies = np.array([0, 0, 0, 1, 1, np.nan, 1, 0], np.float32)
    _, row = rows([delivery(with_later_columns(entropies=entropies))])
    assert tuple(row) == COLUMNS
    assert row == {
        "prompt_ids": [5, 6, 7],
        "response_ids": [1, 9, 2],
        "response_mask": [1, 1, 1],
        "rollout_logprobs": [-1.0, -3.0, 0.0],
        "reward": 1.0,
        "trajectory_id": "actor/3/1",
        "version": [4, 5, 5],
        "node_id": [2, 2, 2],
        "parent_id": [0, 0, 0],
        "rollout_entropies": [None, 1.0, 0.0],
        "mask_id": [0, 1, None],
        "masks": [[1, 10], [9, 10]],
        "edges": [{"source": 1, "target": 2, "kind": "returns"}],
        "leaf_group": 1,
        "terminated": True,
        "cause": "",
        "env_id": "test/Two-v0",
        "task_id": "t",
        "level": 0,
    }


@pytest.mark.parametrize("seed", range(10))
def test_rows_are_the_sequences(seed: int) -> None:
    tree = random_tree(np.random.default_rng(seed), later_columns=True)
    for leaf, row in enumerate(rows([delivery(tree)])):
        index = tree.sequence_index(leaf)
        assert row["prompt_ids"] + row["response_ids"] == tree.token_ids[index].tolist()
        assert row["response_mask"][0] == 1
        assert sum(row["response_mask"]) == (tree.policy_versions[index] >= 0).sum()
        for column in ("rollout_logprobs", "version", "node_id", "parent_id", "rollout_entropies", "mask_id"):
            assert len(row[column]) == len(row["response_ids"])
        assert (row["reward"], row["cause"]) == (tree.sequence_return(leaf), tree.leaf_causes[leaf])


def test_json_lines_are_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "trees.jsonl"
    assert export([delivery(two_rollouts(), n) for n in range(2)], path, SEQUENCES) == 4
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["trajectory_id"] for row in found] == ["actor/0/0", "actor/0/1", "actor/1/0", "actor/1/1"]

    def fails() -> Iterator[TreeDelivery]:
        yield delivery(two_rollouts())
        msg = "corrupt"
        raise JournalError(msg)

    with pytest.raises(JournalError, match="corrupt"):
        export(fails(), path, SEQUENCES)
    assert len(path.read_text().splitlines()) == 4
    assert list(tmp_path.iterdir()) == [path]


def test_what_can_not_be_written_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"ends with \.jsonl or \.parquet, got .*trees\.csv"):
        export([], tmp_path / "trees.csv", SEQUENCES)
    with pytest.raises(ConfigError, match=r"can't write .*none/trees\.jsonl: .*No such file"):
        export([], tmp_path / "none" / "trees.jsonl", SEQUENCES)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match="Parquet needs pyarrow, which is not installed"):
        export([delivery(two_rollouts())], tmp_path / "trees.parquet", SEQUENCES)


def test_parquet_holds_the_same_rows(tmp_path: Path) -> None:
    trees = [random_tree(np.random.default_rng(s), later_columns=True) for s in range(5)]
    deliveries = [delivery(tree, n) for n, tree in enumerate(trees)]
    export(deliveries, tmp_path / "trees.parquet", SEQUENCES)
    assert read_table(tmp_path / "trees.parquet").to_pylist() == list(rows(deliveries))
