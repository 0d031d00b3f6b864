import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from trieline.config import ConfigError, load_config
from trieline.launcher.run_folder import MetricsTail, RunFolder
from trieline.learner.keeping.metrics import MetricsLog


def test_a_run_that_goes_on_is_followed_through_the_replaced_file(tmp_path: Path) -> None:
    with_crash = MetricsLog(tmp_path, step=0)
    for step in range(1, 9):
        with_crash.write(step, {"loss": float(step), "sample": "a\u2028b\x85c"})
    with_crash.close()
    (tmp_path / "metrics.jsonl").open("a").write('{"step": 9, "ti')
    time.sleep(0.01)
    tail = MetricsTail(tmp_path / "metrics.jsonl")
    assert tail.read() == []
    resumed = MetricsLog(tmp_path, step=5)
    assert tail.read() == [], "what the last start wrote is not new"
    for step in (6, 7):
        resumed.write(step, {"loss": 0.5})
        assert [record["step"] for record in tail.read()] == [step]
    resumed.close()
    again = MetricsLog(tmp_path, step=6)
    assert tail.read() == [], "what was read before a learner was started again is not new"
    again.write(7, {"loss": 0.25})
    assert [record["loss"] for record in tail.read()] == [0.25]
    again.close()
    records = RunFolder(tmp_path).read_metrics()
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6, 7]
    assert records[0]["sample"] == "a\u2028b\x85c"


def test_a_line_that_is_not_finished_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, "time": 0.0, "loss": None}) + '\n{"step": 2, "ti')
    assert RunFolder(tmp_path).read_metrics() == [{"step": 1, "time": 0.0}]


def reserve_at(folder: str, barrier: Barrier) -> str:
    config = load_config(["tiny"], [f"run.folder={folder}"])
    barrier.wait()
    return str(RunFolder.reserve(config).path)


def test_runs_that_start_in_one_moment_get_folders_of_their_own(tmp_path: Path) -> None:
    starts = 8
    barrier = Barrier(starts)
    with ThreadPoolExecutor(starts) as threads:
        made = list(threads.map(reserve_at, [str(tmp_path / "runs")] * starts, [barrier] * starts))
    assert len(set(made)) == starts


def test_a_folder_that_appears_between_the_look_and_the_making_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "strftime", lambda form: "now")
    config = load_config(["tiny"], [f"run.folder={tmp_path}"])
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert [RunFolder.reserve(config).path.name for _ in range(3)] == ["tiny-now", "tiny-now-2", "tiny-now-3"]


def test_a_place_that_can_not_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = load_config(["tiny"], [f"run.folder={tmp_path / 'file' / 'runs'}"])
    with pytest.raises(ConfigError, match=r"run\.folder: .*/file/runs can't be written: Not a directory"):
        RunFolder.create(config)
    with pytest.raises(ConfigError, match=r"run\.folder: .*/file/runs can't be written"):
        RunFolder.expect_place(config)
    RunFolder.expect_place(load_config(["tiny"], [f"run.folder={tmp_path / 'new' / 'runs'}"]))
    assert not (tmp_path / "new").exists()
