"""Predictions in every published form, and what is said about those that are not as they should be."""

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trieline.envs.errors import DataError
from trieline.envs.swe.predictions import Prediction, read_predictions, write_prediction

IDS = ("a__b-1", "a__b-2", "c__d.1f-3")
RECORDS: list[dict[str, Any]] = [
    {"instance_id": name, "model_name_or_path": "org/model", "model_patch": f"diff of {name}\n"}
    for name in IDS
]
PATCHES = {name: f"diff of {name}\n" for name in IDS}
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS)

FORMS = {
    "lines.jsonl": LINES,
    "blank.jsonl": "\n" + LINES.replace("\n", "\n\n  \n"),
    "mark.jsonl": "\ufeff" + LINES,
    "returns.jsonl": LINES.replace("\n", "\r\n"),
    "open.jsonl": LINES.removesuffix("\n"),
    "list.json": json.dumps(RECORDS, indent=2),
    "mark.json": "\ufeff" + json.dumps(RECORDS),
    "by_id.json": json.dumps({record["instance_id"]: record for record in RECORDS}),
    "lines.json": LINES,
    "patches.json": json.dumps(PATCHES),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_read(name: str, packed: bool, tmp_path: Path) -> None:
    data = FORMS[name].encode()
    path = tmp_path / (name + ".gz" if packed else name)
    path.write_bytes(gzip.compress(data) if packed else data)
    read = read_predictions(path, IDS)
    assert read.messages == ()
    assert {key: value.model_patch for key, value in read.by_id.items()} == PATCHES
    assert {value.model_name_or_path for value in read.by_id.values()} <= {"org/model", "unknown"}
    assert read.empty_patch_ids == ()


def test_one_record_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a__b-1.pred"
    path.write_text(json.dumps(RECORDS[0]))
    assert list(read_predictions(path, IDS).by_id) == ["a__b-1"]


ONE = RECORDS[0]
WRONG: dict[str, tuple[list[Any], list[str], dict[str, str]]] = {
    "no patch": (
        [ONE | {"model_patch": None}],
        ["line 1: model_patch: expected text, got nothing; the patch counts as empty"],
        {"a__b-1": ""},
    ),
    "a patch that is empty": ([ONE | {"model_patch": ""}], [], {"a__b-1": ""}),
    "a patch that is a list": (
        [ONE | {"model_patch": ["x"]}],
        ["line 1: model_patch: expected text, got a list; the patch counts as empty"],
        {"a__b-1": ""},
    ),
    "the keys of the old documentation": (
        [{"instance_id": "a__b-1", "model": "m", "prediction": "diff"}],
        [
            "line 1: model_name_or_path: expected text, got nothing (it has 'model'); 'unknown' is taken",
            "line 1: model_patch: expected text, got nothing (it has 'prediction')"
            "; the patch counts as empty",
            "the key 'model' of 1 records is not read",
            "the key 'prediction' of 1 records is not read",
        ],
        {"a__b-1": ""},
    ),
    "an id that the data has not": (
        [ONE | {"instance_id": "x__y-1"}, ONE],
        ["line 1: instance_id: expected a task of the data, got 'x__y-1'; it is left out"],
        {"a__b-1": PATCHES["a__b-1"]},
    ),
    "an id that is a number": (
        [ONE | {"instance_id": 7}],
        ["line 1: instance_id: expected text, got the number 7"],
        {},
    ),
    "no id": ([{"model_patch": "x"}], ["line 1: instance_id: expected text, got nothing"], {}),
    "the same id again": (
        [ONE, RECORDS[1], ONE | {"model_patch": "later"}],
        ["line 3: repeats 'a__b-1' of line 1; the last one counts"],
        {"a__b-1": "later", "a__b-2": PATCHES["a__b-2"]},
    ),
    "more keys": (
        [ONE | {"exit_status": "submitted"}, RECORDS[1] | {"exit_status": None, "cost": 1.5}],
        ["the key 'exit_status' of 2 records is not read", "the key 'cost' of 1 records is not read"],
        {"a__b-1": PATCHES["a__b-1"], "a__b-2": PATCHES["a__b-2"]},
    ),
    "no objects": (
        [7, "diff", None, [ONE]],
        [
            f"line {n}: expected an object with the keys "
            f"instance_id, model_name_or_path, model_patch, got {came}"
            for n, came in enumerate(["the number 7", "the text 'diff'", "nothing", "a list"], start=1)
        ],
        {},
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_problem_is_a_message_and_the_rest_is_graded(name: str, tmp_path: Path) -> None:
    records, messages, patches = WRONG[name]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    read = read_predictions(path, IDS)
    assert list(read.messages) == messages
    assert {key: value.model_patch for key, value in read.by_id.items()} == patches
    assert read.empty_patch_ids == tuple(key for key, patch in patches.items() if not patch)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"instance_id": "a__b-1", "model_pa', "line 2: expected JSON"),
        (b"diff --git a/x b/x", "line 2: expected JSON"),
        (b'{"instance_id": "a\xff"}', "line 2: expected UTF-8, got the byte 0xff at byte 19"),
        (b"[" * 100_000, "line 2: expected JSON"),
        (b"1" * 5_000, "line 2: expected JSON"),
    ],
)
def test_a_line_that_is_no_record_is_named(line: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    first, last = (json.dumps(record).encode() for record in RECORDS[:2])
    path.write_bytes(first + b"\n" + line + b"\n" + last + b"\n")
    read = read_predictions(path, IDS)
    assert list(read.by_id) == ["a__b-1", "a__b-2"]
    assert len(read.messages) == 1
    assert read.messages[0].startswith(message)
    assert len(read.messages[0]) < 400


def test_half_a_line_at_the_end_is_said_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(LINES[:-20])
    read = read_predictions(path, IDS)
    assert list(read.by_id) == list(IDS[:2])
    assert "line 3: expected JSON" in read.messages[0]
    assert read.messages[0].endswith("(the last line, and without an end: it was cut off)")


def test_a_record_may_contradict_its_key(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"a__b-2": ONE}))
    read = read_predictions(path, IDS)
    assert list(read.by_id) == ["a__b-1"]
    assert read.messages == (
        "record 'a__b-2': instance_id: expected the key of the record, got 'a__b-1', which is taken",
    )


def test_messages_have_an_end(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("x\n" * 1_000 + json.dumps(ONE | {f"k{n}": n for n in range(99)}) + "\n")
    read = read_predictions(path, IDS)
    assert len(read.messages) == 200 + 1 + 20
    assert read.messages[200] == "800 more messages are not shown"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.csv", b"x", "expected a file named .jsonl"),
        ("p.json", b"[{", r"p.json: expected JSON"),
        ("p.json", b'"x"', "p.json: expected a list or an object of records, got the text 'x'"),
        ("p.json", "[]".encode("utf-16"), "expected UTF-8"),
        ("p.json", b"", "expected JSON"),
        ("p.jsonl.gz", b"x", "expected a whole file of gzip"),
        ("p.jsonl.gz", gzip.compress(LINES.encode())[:-9], "expected a whole file of gzip"),
    ],
)
def test_a_file_that_is_none(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_predictions(path, IDS)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_predictions(tmp_path / "none.jsonl", IDS)


def prediction(instance_id: str, patch: str = "diff\n") -> Prediction:
    return Prediction(instance_id=instance_id, model_name_or_path="m", model_patch=patch)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    patches = {"a__b-1": "diff\r\n\u2028é\n", "a__b-2": "", "c__d.1f-3": "\udcff\n"}
    for name, patch in patches.items():
        write_prediction(path, prediction(name, patch))
    read = read_predictions(path, IDS)
    assert read.messages == ()
    assert {key: value.model_patch for key, value in read.by_id.items()} == patches
    assert [set(json.loads(line)) for line in path.read_text().splitlines()] == [set(ONE)] * 3


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        (b"", b""),
        (b'{"instance_id": "a__b-2", "model', b""),
        (LINES.encode() + b"{" + b"x" * 200_000, LINES.encode()),
        (LINES.encode().removesuffix(b"\n"), LINES.encode()),
    ],
)
def test_half_a_line_is_taken_away(left: bytes, kept: bytes, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(left)
    write_prediction(path, prediction("a__b-1"))
    added = path.read_bytes().removeprefix(kept)
    assert len(added.splitlines()) == 1
    assert json.loads(added)["instance_id"] == "a__b-1"


def test_a_kill_loses_nothing_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    code = f"""
from pathlib import Path
from trieline.envs.swe.predictions import Prediction, write_prediction
for n in range(10**6):
    write_prediction(Path({str(path)!r}), Prediction(
        instance_id=str(n), model_name_or_path="m", model_patch="x" * 100_000))
    print(n, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(20):
            last = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
    write_prediction(path, prediction("later"))
    read = read_predictions(path, [*map(str, range(10**4)), "later"])
    assert read.messages == ()
    assert {str(n) for n in range(last + 1)} | {"later"} <= set(read.by_id)
    assert {len(p.model_patch) for p in read.by_id.values()} == {100_000, 5}
