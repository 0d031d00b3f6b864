"""`report.md` says what the run folder holds, and no more."""

import json
from pathlib import Path

from trieline.config import load_config
from trieline.launcher.report import write_report
from trieline.launcher.run_folder import RunFolder


def evaluation(success: float) -> dict[str, object]:
    def env(env_id: str, *, held_out: bool) -> dict[str, object]:
        return {
            "env_id": env_id,
            "episodes": 100,
            "held_out": held_out,
            "mean_return": success,
            "transcripts": [],
        }

    envs = [env("trieline/GuessNumber-v0", held_out=True), env("me/Echo-v0", held_out=False)]
    return {"temperature": 1.0, "envs": envs}


def test_a_report_names_what_is_not_held_out_and_stands_figures_that_are_not_finite(tmp_path: Path) -> None:
    folder = RunFolder.create(load_config(["tiny"], [f"run.folder={tmp_path}"]))
    step = {"step": 1, "time/step": 2.0, "tokens/sampled": 10, "reward/mean": 0.5}
    records = [step, step | {"step": 2, "reward/mean": None, "reward/trieline/GuessNumber-v0/mean": None}]
    folder.metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    folder.evaluations.mkdir()
    for number, success in ((0, 0.25), (2, 0.75)):
        (folder.evaluations / f"step_{number}.json").write_text(json.dumps(evaluation(success)))
    write_report(folder)
    report = folder.report.read_text()
    assert "never trained on, but for me/Echo-v0, which has no held-out tasks; sampled" in report
    assert "| trieline/GuessNumber-v0 | 100 | 0.25 | 0.75 | +0.50 |" in report
