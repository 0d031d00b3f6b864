"""Trees of a benchmark that wait for their grade and join the journal once, wherever a kill comes between."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.trees import random_tree
from trieline.launcher.bench_trees import BenchTrees, Facts, facts_of
from trieline.wire.errors import JournalError
from trieline.wire.journal import read_journal, read_tree
from trieline.wire.tree import TrajectoryTree

KEY = (2, "a__b-1")
FACTS = Facts(attempt=2, ending="submitted", turns=3, seconds=1.5, read_tokens=None, sampled_tokens=7)


def a_tree() -> TrajectoryTree:
    return random_tree(np.random.default_rng(0), task_id=KEY[1], broken_leaves=0.0)


def in_journal(folder: Path) -> list[TrajectoryTree]:
    return [delivery.tree for delivery in read_journal(folder / "journal")]


def test_a_tree_joins_the_journal_with_its_reward_once(tmp_path: Path) -> None:
    trees = BenchTrees(tmp_path, None)
    tree = a_tree()
    trees.keep(tree, FACTS)
    assert not trees.is_settled(KEY)
    assert in_journal(tmp_path) == []
    trees.settle(KEY, 1.0, "resolved")
    trees.settle(KEY, 1.0, "resolved")
    (found,) = in_journal(tmp_path)
    last = tree.num_leaves - 1
    assert found.sequence_return(last) == pytest.approx(tree.sequence_return(last) + 1)
    assert found.info["grade"] == "resolved"
    assert facts_of(found) == FACTS == trees.facts(KEY)
    assert trees.is_settled(KEY)
    trees.close()
    assert not (tmp_path / "played").exists()


def test_killed_before_the_grade_or_between_journal_and_file(tmp_path: Path) -> None:
    trees = BenchTrees(tmp_path, None)
    trees.keep(a_tree(), FACTS)
    waiting = tmp_path / "played" / "2" / "a__b-1.tree"
    kept = tmp_path / "kept"
    shutil.copy(waiting, kept)
    trees.close()
    trees = BenchTrees(tmp_path, None)
    assert trees.facts(KEY) == FACTS
    trees.settle(KEY, 0.0, "tests fail")
    trees.close()
    waiting.parent.mkdir(parents=True)
    shutil.copy(kept, waiting)  # as if it had been killed before it was removed
    trees = BenchTrees(tmp_path, None)
    assert not trees.is_settled(KEY)
    trees.settle(KEY, 0.0, "tests fail")
    trees.close()
    assert len(in_journal(tmp_path)) == 1
    assert not waiting.exists()


def test_what_was_never_played_has_nothing_to_settle(tmp_path: Path) -> None:
    trees = BenchTrees(tmp_path, None)
    trees.settle(KEY, 1.0, "resolved")
    assert trees.facts(KEY) is None
    trees.close()
    assert in_journal(tmp_path) == []


def test_a_tree_in_a_file_is_checked(tmp_path: Path) -> None:
    trees = BenchTrees(tmp_path, None)
    trees.keep(a_tree(), FACTS)
    path = tmp_path / "played" / "2" / "a__b-1.tree"
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:20], whole[:16], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(JournalError, match="expected"):
            read_tree(path)
    path.unlink()
    with pytest.raises(JournalError, match="can't read"):
        read_tree(path)
    trees.close()
