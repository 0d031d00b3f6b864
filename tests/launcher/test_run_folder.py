import json
import time
from pathlib import Path

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
    records = RunFolder(tmp_path).read_metrics()
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6, 7]
    assert records[0]["sample"] == "a\u2028b\x85c"


def test_a_line_that_is_not_finished_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, "time": 0.0, "loss": None}) + '\n{"step": 2, "ti')
    assert RunFolder(tmp_path).read_metrics() == [{"step": 1, "time": 0.0}]
