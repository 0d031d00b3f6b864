"""Benchmarks of the sample's tasks: their rows, and models at an endpoint that solve some of them."""

import json
from pathlib import Path
from typing import Any

from trieline.envs.swe.gold import gold_commands
from trieline.envs.swe.observations import SUBMIT
from trieline.envs.swe.replies import written
from trieline.envs.swe.repository_task import RepositoryTask, row_of
from trieline.envs.swe.sample import sample_checkouts, sample_tasks

IDS = [task.instance_id for task in sample_tasks()]
SUBMISSION = written(f"echo {SUBMIT}")


def sample_rows(folder: Path) -> Path:
    """The tasks of the sample, in a file."""
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row_of(task)) + "\n" for task in sample_tasks()))
    return rows


def arguments(rows: Path, output: Path, policy: str, *more: str) -> list[str]:
    """Of the command."""
    where = ["--checkouts", str(sample_checkouts()), "--backend", "bubblewrap", "--workers", "2"]
    return ["bench", "swe", "--data", str(rows), "--policy", policy, "--output", str(output), *where, *more]


def asked_about(body: dict[str, Any]) -> RepositoryTask:
    """The task in the first message of a chat."""
    said = body["messages"][1]["content"]
    return next(task for task in sample_tasks() if task.problem_statement.strip() in said)


def gold_reply(task: RepositoryTask) -> str:
    """Mends it and submits, in one reply."""
    (command,) = gold_commands(task, then=f"echo {SUBMIT}")
    return written(command)


def results(folder: Path, model: str, run_id: str = "trieline") -> dict[str, Any]:
    """The official report."""
    found: dict[str, Any] = json.loads((folder / f"{model}.{run_id}.json").read_text())
    return found


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found
