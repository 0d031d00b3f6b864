"""Run folders and batches: regressions of runs that are moved, started together, shown, or all alike."""

import json
import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np

from tests.cases.commands import INPUTS, run_of, settings, steps_of, trieline
from trieline.config import load_config
from trieline.launcher.run_folder import RunFolder
from trieline.learner.batch.advantages import group_advantages, return_scale

CHATS = str(INPUTS / "12_sft_remainder.jsonl")
TRIES = 20


def test_14_sft_moved_run(tmp_path: Path) -> None:
    chosen = settings(model__path="builtin:tiny", learner__checkpoint_every=1)
    first = run_of(trieline("sft", CHATS, "--epochs", "4", *chosen, cwd=tmp_path).expect(0))
    *_, before, last = sorted(
        (first.path / "checkpoints").glob("step_*"), key=lambda folder: int(folder.name[5:])
    )
    for file in sorted(last.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    last.rmdir()
    moved = RunFolder(first.path.rename(tmp_path / "moved"))
    ran = trieline("sft", "--resume", str(moved.path), cwd=tmp_path).expect(0)
    assert run_of(ran) == moved
    assert f"step_{steps_of(moved)[-1]['step']}" == last.name
    assert int(last.name[5:]) == int(before.name[5:]) + 1
    assert moved.load_config().learner.replay == str(moved.path / "data")
    assert not first.path.exists()


def test_34_run_folder_race(tmp_path: Path) -> None:
    # Spawned, as programs that have nothing of each other start.
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(2)
    with context.Pool(2, initializer=meet_at, initargs=(together,)) as pool:
        for number in range(TRIES):
            made = pool.map(make_run_folder, [tmp_path / str(number)] * 2, chunksize=1)
            assert len(set(made)) == 2
            assert all(RunFolder(path).config.is_file() for path in made)


def meet_at(barrier: Barrier) -> None:
    global together
    together = barrier


def make_run_folder(runs: Path) -> Path:
    config = load_config(["tiny"], [f"run.folder={runs}"])
    together.wait(timeout=60)
    return RunFolder.create(config).path


def test_35_show_sft_run(tmp_path: Path) -> None:
    run = run_of(trieline("sft", CHATS, *settings(model__path="builtin:tiny"), cwd=tmp_path).expect(0))
    conversations = [json.loads(line)["messages"] for line in Path(CHATS).read_text().splitlines()]
    shown = trieline("show", str(run.path), cwd=tmp_path).expect(0).out
    assert any(
        asked["content"] in shown and f"{reply['content']}<|im_end|>" in shown
        for asked, reply in conversations
    )


def test_39_equal_returns() -> None:
    # Rewards travel as float32 and are summed in float64: 0.3 at once, or 0.1 and 0.2 over two turns.
    one, two = float(np.float32(0.3)), float(np.float32(0.1)) + float(np.float32(0.2))
    assert one != two
    returns = np.array([one, two, one, two])
    advantages = group_advantages(returns) * return_scale(returns)
    assert advantages.tolist() == [0.0] * 4
