"""Predictions graded through the command, in workspaces under bubblewrap, and the files that come of it."""

import json
from pathlib import Path

import pytest

from tests.envs.swe.repositories import Repository
from tests.envs.swe.test_grading import AFTER, BASE, CALC, FIXED, SCRIPT, tree_of
from tests.envs.swe.workspaces import IGNORED, make_checkout
from trieline.command_line import main
from trieline.envs.sandbox import docker
from trieline.envs.sandbox.bubblewrap import give

FILES = {**tree_of(BASE), ".gitignore": IGNORED}


class Data:
    """Three tasks that differ in their ids alone, and what could be said of them."""

    def __init__(self, folder: Path) -> None:
        scratch = Repository(folder / "scratch", FILES)

        def patch(changes: dict[str, bytes | None]) -> str:
            scratch.write({**tree_of({**BASE, **changes}), ".gitignore": IGNORED})
            made = scratch.diff().decode()
            scratch.reset()
            return made

        self.gold, self.wrong = (
            patch({"calc.py": FIXED}),
            patch({"calc.py": CALC.replace(b"a - b", b"b - a")}),
        )
        self.ids = [f"example__calc-{number}" for number in range(3)]
        self.rows = folder / "rows.jsonl"
        self.checkouts = folder / "checkouts"
        self.checkouts.mkdir()
        row = {
            "repo": "example/calc", "version": "1", "base_commit": "0" * 40, "patch": self.gold,
            "problem_statement": "add subtracts", "test_patch": patch(dict(AFTER)),
            "FAIL_TO_PASS": ["tests/test_calc.py::test_add", "tests/test_cases.py::AddTest::test_zero"],
            "PASS_TO_PASS": ["tests/test_calc.py::test_mul"], "image": "example/calc:1",
            "log_parser": "parse_log_pytest", "eval_type": "pass_and_fail", "eval_script": SCRIPT,
        }  # fmt: skip
        with self.rows.open("w") as file:
            for instance_id in self.ids:
                file.write(json.dumps({"instance_id": instance_id, **row}) + "\n")
        for instance_id in self.ids:
            give(make_checkout(self.checkouts / instance_id, tree_of(BASE)).folder)

    def predictions(self, path: Path, *patches: str) -> Path:
        records = [
            {"instance_id": i, "model_name_or_path": "me/model-1", "model_patch": patch}
            for i, patch in zip(self.ids, patches, strict=False)
        ]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(tmp_path_factory.mktemp("data"))


def bench(data: Data, output: Path, policy: str, *more: str) -> int:
    where = ["--checkouts", str(data.checkouts), "--backend", "bubblewrap", "--workers", "2"]
    what = ["--data", str(data.rows), "--policy", policy, "--output", str(output)]
    return main(["bench", "swe", *what, *where, *more])


def test_gold_resolves_all_and_empty_none(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(data, tmp_path / "gold", "gold") == 0
    report = json.loads((tmp_path / "gold/gold.trieline.json").read_text())
    assert report["resolved_ids"] == report["completed_ids"] == data.ids
    assert report["error_ids"] == report["unresolved_ids"] == []
    assert "3 of 3 resolved: 100.0%" in capsys.readouterr().out
    assert bench(data, tmp_path / "empty", "empty") == 0
    report = json.loads((tmp_path / "empty/empty.trieline.json").read_text())
    assert report["empty_patch_ids"] == data.ids
    assert report["resolved_instances"] == report["completed_instances"] == 0


def test_predictions_are_graded_and_kept_in_the_official_files(data: Data, tmp_path: Path) -> None:
    replay = data.predictions(tmp_path / "p.jsonl", data.gold, data.wrong, "no patch at all")
    output = tmp_path / "run"
    assert bench(data, output, f"replay:{replay}", "--run-id", "first") == 0
    report = json.loads((output / "me__model-1.first.json").read_text())
    assert report["resolved_ids"] == data.ids[:1]
    assert report["unresolved_ids"] == data.ids[1:2]
    assert report["error_ids"] == data.ids[2:]
    assert report["schema_version"] == 2
    logs = output / "logs/run_evaluation/first/me__model-1"
    assert (logs / data.ids[0] / "patch.diff").read_text() == data.gold
    assert ">>>>> End Test Output" in (logs / data.ids[0] / "test_output.txt").read_text()
    kept = json.loads((logs / data.ids[1] / "report.json").read_text())[data.ids[1]]
    assert kept["patch_successfully_applied"]
    assert not kept["resolved"]
    assert "tests/test_calc.py::test_add" in kept["tests_status"]["FAIL_TO_PASS"]["failure"]
    assert json.loads((logs / data.ids[2] / "grade.json").read_text())["cause"] == "refused"
    assert not (logs / data.ids[2] / "report.json").exists()
    assert "| refused | 1 |" in (output / "summary.md").read_text()


def test_a_run_goes_on_where_it_was_and_grades_nothing_twice(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replay = data.predictions(tmp_path / "p.jsonl", data.gold, data.wrong)
    output = tmp_path / "run"
    assert bench(data, output, f"replay:{replay}", "--ids", data.ids[0]) == 0
    before = (output / "logs/run_evaluation/trieline/me__model-1" / data.ids[0] / "grade.json").stat()
    assert bench(data, output, f"replay:{replay}") == 2
    assert "--resume goes on with them" in capsys.readouterr().err
    assert bench(data, output, f"replay:{replay}", "--resume") == 0
    after = (output / "logs/run_evaluation/trieline/me__model-1" / data.ids[0] / "grade.json").stat()
    assert before.st_mtime_ns == after.st_mtime_ns
    kept = [
        json.loads(line)["instance_id"] for line in (output / "predictions.jsonl").read_text().splitlines()
    ]
    assert kept == data.ids[:2]
    report = json.loads((output / "me__model-1.trieline.json").read_text())
    assert (report["resolved_ids"], report["unresolved_ids"]) == (data.ids[:1], data.ids[1:2])
    assert report["incomplete_ids"] == data.ids[2:]


def test_a_task_without_its_checkout_is_broken_and_not_wrong(data: Data, tmp_path: Path) -> None:
    output = tmp_path / "run"
    assert bench(data, output, "gold", "--checkouts", str(tmp_path)) == 0
    summary = (output / "summary.md").read_text()
    assert "| broken | 3 |" in summary
    assert f"- {data.ids[0]}: {data.ids[0]}: expected a folder {data.ids[0]} in" in summary


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--policy", "silver"], "replay:FILE, run:FOLDER or openai:URL, got 'silver'"),
        (["--policy", "gold", "--ids", "nobody__x-1"], "--ids: expected ids of"),
        (["--policy", "gold", "--workers", "0"], "--workers: expected at least 1, got 0"),
    ],
)
def test_what_cannot_be_run_is_said(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    command = ["bench", "swe", "--data", str(data.rows), "--output", str(tmp_path)]
    assert main([*command, *arguments]) == 2
    assert said in capsys.readouterr().err


def test_an_engine_that_is_not_there_is_said_once(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/socket")
    monkeypatch.setattr(docker, "_engine_of", lambda _pid: docker.Engine())
    what = ["--data", str(data.rows), "--policy", "gold", "--output", str(tmp_path / "run")]
    assert main(["bench", "swe", *what, "--backend", "docker"]) == 2
    assert capsys.readouterr().err.startswith("trieline bench: no Docker Engine answers: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model", ["..", "", "a\0b", "x" * 300])
def test_a_model_whose_name_is_no_folder_is_refused(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    replay = tmp_path / "p.json"
    records = [{"instance_id": data.ids[0], "model_name_or_path": model, "model_patch": data.gold}]
    replay.write_text(json.dumps(records))
    status = bench(data, tmp_path / "run", f"replay:{replay}")
    assert status == (0 if model == "" else 2)  # without a name it is `unknown`
    assert (
        list((tmp_path).glob("*/logs/**/*"))
        if model == ""
        else "model_name_or_path" in capsys.readouterr().err
    )
