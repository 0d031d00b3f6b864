"""Rows of both schemas, from every file and folder that they come in, and what is said of bad ones."""

import gzip
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests.envs.swe.sample_rows import CLASSIC, FAIL_TO_PASS, MODERN, PASS_TO_PASS, PATCH, TEST_PATCH
from trieline.envs.errors import DataError
from trieline.envs.swe.repository_task import RepositoryTask, row_of, task_of
from trieline.envs.swe.rows import read_rows

ROWS = [CLASSIC, MODERN]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)

FILES = {
    "rows.jsonl": LINES,
    "blank.jsonl": "\n" + LINES.replace("\n", "\n \n"),
    "mark.jsonl": "\ufeff" + LINES.replace("\n", "\r\n"),
    "open.jsonl": LINES.removesuffix("\n"),
    "rows.json": json.dumps(ROWS, indent=1),
    "by_id.json": json.dumps({row["instance_id"]: row for row in ROWS}),
    "lines.json": LINES,
}


def test_both_schemas_are_understood() -> None:
    classic, modern = map(task_of, ROWS)
    assert classic == RepositoryTask(
        instance_id="kitchen__tea-7",
        repo="kitchen/tea",
        version="1.2",
        base_commit="0123456789abcdef0123456789abcdef01234567",
        problem_statement="The pot holds three cups\r\nIt should hold four. ☕",
        hints_text="",
        patch=PATCH,
        test_patch=TEST_PATCH,
        fail_to_pass=tuple(FAIL_TO_PASS),
        pass_to_pass=tuple(PASS_TO_PASS),
        created_at="2024-05-01T10:00:00Z",
        environment_setup_commit="89abcdef0123456789abcdef0123456789abcdef",
    )
    assert (classic.image, classic.log_parser, classic.eval_script) == (None, None, None)
    assert classic.eval_type == "pass_and_fail"
    assert (modern.image, modern.log_parser) == (MODERN["image"], "parse_log_pytest")
    assert (modern.eval_type, modern.eval_script) == ("fail_only", MODERN["eval_script"])


def test_a_task_becomes_its_row_again() -> None:
    for row in ROWS:
        task = task_of(row)
        assert task_of(row_of(task)) == task
        assert task_of(json.loads(json.dumps(row_of(task)))) == task
    assert {key: value for key, value in MODERN.items() if key != "difficulty"} == row_of(task_of(MODERN))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_every_file_is_read(name: str, packed: bool, tmp_path: Path) -> None:
    path = tmp_path / (name + ".gz" if packed else name)
    path.write_bytes(gzip.compress(FILES[name].encode()) if packed else FILES[name].encode())
    assert read_rows(path) == [task_of(row) for row in ROWS]


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {column: None for row in rows for column in row}
    tests = ("FAIL_TO_PASS", "PASS_TO_PASS")
    lists = [{c: json.loads(row[c]) for c in tests if isinstance(row[c], str)} for row in rows]
    table = pyarrow.Table.from_pylist([columns | row | more for row, more in zip(rows, lists, strict=True)])
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
        return
    with pyarrow.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


def test_tables_are_read(tmp_path: Path) -> None:
    other = {**MODERN, "version": 2, "created_at": datetime(2024, 5, 1, 10, tzinfo=UTC), "hints_text": None}
    other |= {"input_ids": [1, 2], "meta": {"is_lite": True}}
    for name in ("x.parquet", "x.arrow"):
        write_table(tmp_path / name, [other])
        (task,) = read_rows(tmp_path / name)
        assert (task.version, task.created_at, task.hints_text) == ("2", "2024-05-01T10:00:00+00:00", "")
        assert task.fail_to_pass == tuple(FAIL_TO_PASS)


LAYOUTS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "as downloaded": {
        "data/test-00000-of-00002.parquet": [CLASSIC],
        "data/test-00001-of-00002.parquet": [MODERN],
        "data/train-00000-of-00001.parquet": [MODERN],
    },
    "lines": {"test.jsonl": ROWS, "dev.jsonl": [CLASSIC]},
    "lines in a folder": {"data/test.jsonl": ROWS, "data/dev.json": [CLASSIC]},
    "tables by split": {"test.parquet": ROWS, "dev.parquet": [MODERN]},
    "folders by split": {"test/data-00000-of-00001.arrow": ROWS, "train/data-00000-of-00001.arrow": [MODERN]},
    "one split": {"data/test-00000-of-00001.parquet": ROWS},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_folder_is_read(name: str, tmp_path: Path) -> None:
    for file, rows in LAYOUTS[name].items():
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in {".parquet", ".arrow"}:
            write_table(path, rows)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "README.md").write_text("# rows")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["test"]}')
    for folder in ("test", "data"):
        if (tmp_path / folder).is_dir():
            (tmp_path / folder / "state.json").write_text("{}")
            (tmp_path / folder / "dataset_info.json").write_text("{}")
    wanted = [task_of(row) for row in ROWS]
    assert read_rows(tmp_path, "test") == wanted
    if name == "one split":
        assert read_rows(tmp_path) == wanted
    else:
        with pytest.raises(
            DataError, match=r"expected one split in .*, or the name of one, got (dev|test), t"
        ):
            read_rows(tmp_path)
    with pytest.raises(DataError, match=r"expected the split 'validation' in .*, got .*test"):
        read_rows(tmp_path, "validation")


def test_a_split_of_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(LINES)
    with pytest.raises(DataError, match="expected a folder of which 'test' is a split"):
        read_rows(path, "test")


def test_links_are_followed_as_in_the_cache_of_hugging_face(tmp_path: Path) -> None:
    write_table(tmp_path / "blobs" / "0a1b.parquet", ROWS)
    snapshot = tmp_path / "snapshots" / "1" / "data"
    snapshot.mkdir(parents=True)
    (snapshot / "test-00000-of-00001.parquet").symlink_to("../../../blobs/0a1b.parquet")
    assert len(read_rows(snapshot.parent)) == 2


@pytest.mark.parametrize(
    ("columns", "field", "value"),
    [
        ({"FAIL_TO_PASS": FAIL_TO_PASS}, "fail_to_pass", tuple(FAIL_TO_PASS)),
        ({"FAIL_TO_PASS": repr(FAIL_TO_PASS)}, "fail_to_pass", tuple(FAIL_TO_PASS)),
        ({"PASS_TO_PASS": repr(PASS_TO_PASS)}, "pass_to_pass", tuple(PASS_TO_PASS)),
        ({"PASS_TO_PASS": None, "pass_to_pass": repr(PASS_TO_PASS)}, "pass_to_pass", tuple(PASS_TO_PASS)),
        ({"PASS_TO_PASS": "[]"}, "pass_to_pass", ()),
        ({"version": 3}, "version", "3"),
        ({"version": None}, "version", ""),
        ({"hints_text": float("nan")}, "hints_text", ""),
        ({"created_at": 1714557600000}, "created_at", "1714557600000"),
        ({"image": ""}, "image", None),
        ({"docker_image": "swerebench/x:1"}, "image", "swerebench/x:1"),
        ({"repo": "markedjs/marked"}, "eval_type", "fail_only"),
        ({"image_assets": {}}, "image_assets", None),
        (
            {"image_assets": {"test_patch": [{"path": "a.png"}]}},
            "image_assets",
            '{"test_patch": [{"path": "a.png"}]}',
        ),
        ({"instance_id": "instance_NodeBB__NodeBB-" + "0" * 40 + "-vnan"}, "version", "1.2"),
        ({"patch": ""}, "patch", ""),
    ],
)
def test_what_other_data_sets_write_is_read(columns: dict[str, Any], field: str, value: object) -> None:
    row = {key: v for key, v in (CLASSIC | columns).items() if v is not None}
    assert getattr(task_of(row), field) == value


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no id": ({"instance_id": None}, "instance_id: expected text, got nothing"),
    "an id with a slash": (
        {"instance_id": "a/b"},
        "instance_id: expected at most 200 letters.*got the text 'a/b'",
    ),
    "an id that leads up": ({"instance_id": ".."}, "instance_id: expected"),
    "an id with NUL": ({"instance_id": "a\0b"}, r"instance_id: expected .*got the text 'a\\\\x00b'"),
    "a long id": ({"instance_id": "a" * 201}, "instance_id: expected at most 200"),
    "an id that is an option": ({"instance_id": "-rf"}, "instance_id: expected"),
    "an id with a line end": ({"instance_id": "a\n"}, "instance_id: expected"),
    "a repository that is an option": ({"repo": "x y"}, "repo: expected owner/name"),
    "a repository that leads up": ({"repo": "x/.."}, "repo: expected owner/name"),
    "a commit that is an option": ({"base_commit": "--upload-pack=x"}, "base_commit: expected the hash"),
    "a commit with a command": ({"base_commit": "HEAD; rm -rf /"}, "base_commit: expected the hash"),
    "no commit": ({"base_commit": None}, "base_commit: expected text, got nothing"),
    "SWE-smith": ({"base_commit": None, "image_name": "x"}, "got a row of SWE-smith, whose patch breaks"),
    "no patch": ({"patch": None}, "patch: expected text, got nothing"),
    "a patch that is missing to pandas": ({"patch": float("nan")}, "patch: expected text, got nothing"),
    "a patch that is a list": ({"patch": ["x"]}, "patch: expected text, got a list"),
    "no statement": ({"problem_statement": None}, "problem_statement: expected text, got nothing"),
    "a version that lost its zero": ({"version": 4.2}, "version: expected text, got the number 4.2"),
    "half a character": ({"problem_statement": "a\ud83d"}, "problem_statement: .*surrogate at character 2"),
    "no tests": ({"FAIL_TO_PASS": None}, "FAIL_TO_PASS: expected a list of tests, got nothing"),
    "an empty list": ({"FAIL_TO_PASS": "[]"}, "FAIL_TO_PASS: expected at least one test, got none"),
    "the train split": ({"FAIL_TO_PASS": ""}, "FAIL_TO_PASS: expected a list of tests, got the text ''"),
    "tests in prose": (
        {"FAIL_TO_PASS": "test_a"},
        "FAIL_TO_PASS: expected a list of tests, got the text 'test_a'",
    ),
    "a call": ({"FAIL_TO_PASS": "[__import__('os')]"}, "FAIL_TO_PASS: expected a list of tests"),
    "deep": ({"FAIL_TO_PASS": "[" * 100_000}, "FAIL_TO_PASS: expected a list of tests"),
    "deep in python": ({"FAIL_TO_PASS": "['x'," + "(" * 5_000}, "FAIL_TO_PASS: expected a list of tests"),
    "a number among tests": (
        {"PASS_TO_PASS": ["a", 3]},
        "PASS_TO_PASS, test 2: expected text, got the number 3",
    ),
    "lists among tests": ({"PASS_TO_PASS": "[['a']]"}, "PASS_TO_PASS, test 1: expected text, got a list"),
    "an object of tests": ({"PASS_TO_PASS": "{}"}, "PASS_TO_PASS: expected a list of tests, got an object"),
    "tests twice": (
        {"fail_to_pass": "[]"},
        "FAIL_TO_PASS: expected one such column, got FAIL_TO_PASS and fail",
    ),
    "an image that is an option": ({"image": "--privileged"}, "image: expected the name of an image"),
    "a parser that is none": (
        {"log_parser": "os.system('x')"},
        "log_parser: expected the name of a function",
    ),
    "another kind": (
        {"eval_type": "all"},
        "eval_type: expected pass_and_fail or fail_only, got the text 'all'",
    ),
    "many columns": ({f"c{n}": 1 for n in range(1_000)}, "expected at most 1,000 columns, got 1,013"),
    "many tests": ({"PASS_TO_PASS": ["a"] * 500_001}, "PASS_TO_PASS: expected at most 500,000 tests"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_names_its_line_and_column(name: str, tmp_path: Path) -> None:
    columns, message = BAD[name]
    row = {key: value for key, value in (CLASSIC | columns).items() if value is not None}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(MODERN) + "\n\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=message) as caught:
        read_rows(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_a_bad_row_of_a_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_table(path, [MODERN, MODERN | {"instance_id": "x/y"}])
    with pytest.raises(DataError, match=r"rows.parquet, row 2: instance_id: expected"):
        read_rows(path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.jsonl", b"", "expected rows in .*, got none"),
        ("x.jsonl", b"[1]\n", "line 1: expected a row with columns, got a list"),
        ("x.jsonl", LINES[:-9].encode(), "line 2: expected JSON, .*it was cut off"),
        ("x.json", b"{} x", "x.json: expected JSON"),
        ("x.json", json.dumps({"other": CLASSIC}).encode(), "record 'other': instance_id: expected the key"),
        (
            "x.jsonl",
            (LINES + LINES).encode(),
            "line 3: .*expected an id once, got 'kitchen__tea-7', as in .*line 1",
        ),
        ("x.parquet", b"PAR1 no", "expected a table of Parquet"),
        ("x.arrow", b"no", "expected a table of Arrow"),
        ("x.csv", b"instance_id\n", "expected a file named"),
    ],
)
def test_a_file_that_is_none(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / name)


def test_a_table_that_was_cut_is_named(tmp_path: Path) -> None:
    for name in ("x.parquet", "x.arrow"):
        path = tmp_path / name
        write_table(path, ROWS)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(DataError, match=f"{name}: expected a table"):
            read_rows(path)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path) -> None:
    write_table(tmp_path / "x.parquet", ROWS)
    code = f"""
import sys
sys.modules["pyarrow"] = None
from pathlib import Path
from trieline.envs.errors import DataError
from trieline.envs.swe.rows import read_rows
try:
    read_rows(Path({str(tmp_path / "x.parquet")!r}))
except DataError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        "Parquet and Arrow need pyarrow, which is not installed: pip install 'trieline[export]'"
        in done.stdout
    )


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_rows(tmp_path / "none.jsonl")
    with pytest.raises(FileNotFoundError):
        read_rows(tmp_path / "none.parquet")
