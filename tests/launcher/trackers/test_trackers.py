"""The real libraries, without a network: W&B offline, Trackio's and MLflow's local databases."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from trieline.launcher.trackers.tracker import TrackedRun, open_tracker

FIGURES = {"reward/my_tasks:me/First-v0/mean": 0.25, "eval/trieline/GuessNumber-v0/pass@4": 0.5}


@pytest.fixture
def run(tmp_path: Path) -> TrackedRun:
    facts = {
        "config": {"run": {"seed": 7}, "envs": [{"id": "a"}]},
        "machine": {"packages": {"torch": "2.13"}},
    }
    return TrackedRun(id="0123abcd", name="tiny-1", project="trieline", folder=tmp_path, facts=facts)


def send_twice(name: str, run: TrackedRun) -> None:
    """A run that is stopped and goes on."""
    for step in (1, 2):
        tracker = open_tracker(name, run)
        tracker.send(step, FIGURES)
        tracker.close()


def test_wandb(run: TrackedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    send_twice("wandb", run)
    written = list(tmp_path.glob("wandb/offline-run-*/run-0123abcd.wandb"))
    text = b"".join(path.read_bytes() for path in written)
    assert all(name.encode() in text for name in FIGURES)
    assert b"torch" in text


def test_trackio(run: TrackedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    send_twice("trackio", run)
    (database,) = tmp_path.glob("trackio/*.db")
    with sqlite3.connect(database) as connection:
        rows: list[tuple[Any, ...]] = connection.execute("select run_name, step from metrics").fetchall()
        (text,) = connection.execute("select group_concat(metrics) from metrics").fetchone()
    assert rows == [("tiny-1-0123", 1), ("tiny-1-0123", 2)]
    assert all(str(text).count(name) == 2 for name in FIGURES)


def test_mlflow(run: TrackedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mlflow", "alembic", "sqlalchemy"):
        pytest.importorskip(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    send_twice("mlflow", run)
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    (there,) = client.search_runs([client.get_experiment_by_name("trieline").experiment_id])
    assert there.data.params["config.run.seed"] == "7"
    assert there.data.params["machine.packages.torch"] == "2.13"
    for name in FIGURES:
        history = client.get_metric_history(there.info.run_id, name.replace("@", "_at_"))
        assert [(metric.step, metric.value) for metric in history] == [(1, FIGURES[name]), (2, FIGURES[name])]
    assert there.info.status == "FINISHED"
