import json
import math
from pathlib import Path
from typing import Any

import pytest

from trieline.learner.keeping.metrics import MetricsLog


def read(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_every_record_is_there_at_once(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, step=0)
    log.write(1, {"reward/mean": 0.5, "sample": {"reply": "ünïcode\n"}, "loss/total": math.nan})
    (record,) = read(tmp_path)
    log.close()
    log.close()
    assert record["step"] == 1
    assert record["reward/mean"] == 0.5
    assert record["sample"] == {"reply": "ünïcode\n"}
    assert record["loss/total"] is None, "JSON has no NaN"
    assert list((tmp_path / "tensorboard").iterdir())


def test_steps_that_are_made_again_are_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = MetricsLog(tmp_path, step=0)
    for step in range(5):
        log.write(step, {"reward/mean": step / 10})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "rew')
    log = MetricsLog(tmp_path, step=3)
    log.write(4, {"reward/mean": 0.9})
    log.close()
    assert [(r["step"], r["reward/mean"]) for r in read(tmp_path)] == [
        (0, 0),
        (1, 0.1),
        (2, 0.2),
        (3, 0.3),
        (4, 0.9),
    ]
    assert "no JSON" in caplog.text


def test_a_run_that_begins_anew_keeps_no_record(tmp_path: Path) -> None:
    # Those of a warm start stand at step 0, as all that is before the first step.
    for step, kept in ((None, 0), (0, 1), (None, 0)):
        log = MetricsLog(tmp_path, step=step)
        assert len(read(tmp_path)) == kept
        log.write(0, {"warm_start/step": 1})
        log.close()


def test_steps_of_a_warm_start_that_are_made_again_are_dropped(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, step=None)
    log.write(0, {"probe": 1})
    for step in range(1, 5):
        log.write(0, {"warm_start/step": step})
    log.close()
    MetricsLog(tmp_path, step=0, warm_start_step=2).close()
    assert [r.get("warm_start/step") for r in read(tmp_path)] == [None, 1, 2]
    MetricsLog(tmp_path, step=1, warm_start_step=0).close()
    assert len(read(tmp_path)) == 3
