import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from trieline.envs.datasets import dataset_env
from trieline.envs.datasets.task_set import task_set_of
from trieline.envs.errors import DataError, TaskError
from trieline.envs.question.questions import Questions


def row(number: int, **more: Any) -> dict[str, Any]:
    return {"question": f"What is {number}?", "answer": str(number), **more}


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


def ids(env: Questions) -> tuple[set[str], set[str]]:
    return set(env.task_ids("train")), set(env.task_ids("test"))


def test_an_id_stays_with_its_row(tmp_path: Path) -> None:
    rows = [row(n) for n in range(50)]
    first = ids(Questions(data=str(written(tmp_path / "a.jsonl", rows))))
    other = ids(Questions(data=str(written(tmp_path / "b.jsonl", rows[::-1]))))
    assert first == other
    assert not first[0] & first[1]
    assert len(first[0]) + len(first[1]) == 50
    assert 3 <= len(first[1]) <= 20


def test_ids_of_the_data_are_kept(tmp_path: Path) -> None:
    rows = [row(n, task_id=n) for n in range(3)]
    env = Questions(data=str(written(tmp_path / "a.jsonl", rows)), test_share=0.0)
    assert env.task_ids("train") == ("0", "1", "2")
    with pytest.raises(TaskError, match=r"has no task '9': expected one of 3 ids such as '0'"):
        env.reset(options={"task_id": "9"})


def test_rows_that_ask_the_same_are_on_one_side(tmp_path: Path) -> None:
    rows = [{"question": f"Q{n}", "answer": str(answer)} for n in range(40) for answer in (1, 2)]
    env = Questions(data=str(written(tmp_path / "a.jsonl", rows)))
    sides: dict[str, set[bool]] = {}
    for task in env.all_tasks():
        sides.setdefault(task.question, set()).add(env.in_test(task))
    assert len(sides) == 40
    assert all(len(side) == 1 for side in sides.values())


def test_repeated_rows_count_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        env = Questions(data=str(written(tmp_path / "a.jsonl", [row(1), row(1), row(2)])))
    assert sum(map(len, ids(env))) == 2
    assert "1 rows are there more than once" in caplog.text


def test_an_id_for_two_rows_is_refused(tmp_path: Path) -> None:
    data = written(tmp_path / "a.jsonl", [row(1, id="x"), row(2, id="x")])
    with pytest.raises(DataError, match=r"line 2: id: expected an id once, got 'x', as in .*line 1"):
        Questions(data=str(data))


def test_a_folder_says_itself_what_is_held_out(tmp_path: Path) -> None:
    written(tmp_path / "set" / "train.jsonl", [row(n) for n in range(8)])
    table = pyarrow.Table.from_pylist([row(n) for n in range(8, 12)])
    (tmp_path / "set" / "data").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "set" / "data" / "test-00000-of-00001.parquet")
    train, test = ids(Questions(data=str(tmp_path / "set")))
    assert (len(train), len(test)) == (8, 4)


def test_what_is_held_out_is_not_trained_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = written(tmp_path / "train.jsonl", [row(n) for n in range(8)])
    test = written(tmp_path / "test.jsonl", [row(n) for n in range(6, 10)])
    with caplog.at_level(logging.WARNING):
        env = Questions(data=str(train), test_data=str(test))
    assert tuple(map(len, ids(env))) == (6, 4)
    assert "2 of 8 rows to train on ask what is held out" in caplog.text


def test_a_subset_and_splits_of_other_names(tmp_path: Path) -> None:
    written(tmp_path / "main" / "train.jsonl", [row(n) for n in range(4)])
    written(tmp_path / "main" / "validation.jsonl", [row(n) for n in range(4, 6)])
    env = Questions(data=str(tmp_path), subset="main", test_split="validation")
    assert tuple(map(len, ids(env))) == (4, 2)
    with pytest.raises(DataError, match="expected the folder of subset 'socratic'"):
        Questions(data=str(tmp_path), subset="socratic")


def test_a_file_is_held_against_its_hash(tmp_path: Path) -> None:
    data = written(tmp_path / "a.jsonl", [row(n) for n in range(4)])
    right = hashlib.sha256(data.read_bytes()).hexdigest()
    Questions(data=str(data), sha256=right)
    with pytest.raises(DataError, match=f"with the SHA-256 {'0' * 64}, got {right}"):
        Questions(data=str(data), sha256="0" * 64)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "expected rows in .*, got none"),
        ("[1, 2]\n", "line 1: expected an object with columns, got a list"),
        ('{"question": "?", "answer": "1"}\n{"question": ', "line 2: expected JSON.*cut off"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "a.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        Questions(data=str(tmp_path / "a.jsonl"))


def test_a_name_is_looked_for_on_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From its cache, laid out as the hub's own library does, without a network."""
    revision = "a" * 40
    cached = tmp_path / "datasets--some--set"
    written(cached / "snapshots" / revision / "train.jsonl", [row(n) for n in range(3)])
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    from huggingface_hub import snapshot_download

    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda *a, **k: snapshot_download(*a, **k, cache_dir=tmp_path, local_files_only=True),
    )
    assert sum(map(len, ids(Questions(data="some/set")))) == 3
    with pytest.raises(DataError, match="found no file or folder some/other, and it can't be had from"):
        Questions(data="some/other")
    with pytest.raises(DataError, match="expected a file, the folder of a data set or its name"):
        Questions(data=str(tmp_path / "absent.jsonl"))


def test_levels_by_a_column(tmp_path: Path) -> None:
    named = [row(n, kind=("hard", "easy", "medium")[n % 3]) for n in range(9)]
    env = Questions(data=str(written(tmp_path / "a.jsonl", named)), level_column="kind", test_share=0.0)
    assert env.levels == 3
    for level, difficulty in enumerate((1.0, 2.0, 3.0)):
        env.reset(seed=0, options={"level": level})
        assert env.task.difficulty == difficulty
    measured = [row(n, success=n / 30) for n in range(30)]
    env = Questions(data=str(written(tmp_path / "b.jsonl", measured)), level_column="success", test_share=0.0)
    env.reset(seed=0, options={"level": 2})
    assert env.levels == dataset_env.PARTS
    assert env.task.difficulty >= 20 / 30 - 1e-9  # type: ignore[operator]  # a number


def test_a_level_without_tasks_of_the_split_says_so(tmp_path: Path) -> None:
    data = written(tmp_path / "a.jsonl", [row(1, level=1), row(2, level=2)])
    env = Questions(data=str(data), test_share=0.0, split="test")
    with pytest.raises(TaskError, match="expected test tasks of level 0, got none among 2 tasks"):
        env.reset(seed=0)


def test_parts_leave_no_split_empty() -> None:
    tasks = {str(n): n for n in range(20)}
    cut = task_set_of(tasks, ["3", "17"], float, parts=3)
    assert [len(level) for level in cut.by_level["test"]] == [1, 1]
    assert [task for level in cut.by_level["train"] for task in level] == [
        n for n in range(20) if n not in (3, 17)
    ]


def test_a_data_set_is_read_once(tmp_path: Path) -> None:
    data = written(tmp_path / "a.jsonl", [row(n) for n in range(4)])
    first = Questions(data=str(data))
    data.unlink()
    assert Questions(data=str(data)).task_ids("train") == first.task_ids("train")


def test_shards_with_a_hash_in_their_names_are_of_their_split(tmp_path: Path) -> None:
    for shard in range(2):
        name = f"train-0000{shard}-of-00002-a09b74b3ef9c3b5{shard}.jsonl"
        written(tmp_path / "set" / "data" / name, [row(2 * shard + n) for n in range(2)])
    env = Questions(data=str(tmp_path / "set"))
    assert sum(map(len, ids(env))) == 4
