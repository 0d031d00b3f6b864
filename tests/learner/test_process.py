"""The learner with a real policy server, a real actor, and real sockets between them."""

import asyncio
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from tests.learner.live_parts import (
    LEARNER,
    EvenActor,
    free_links,
    policy_server,
    program,
    records,
    wait_for_step,
)
from tests.learner.policy_server.test_process import Serving
from tests.learner.test_live_links import open_links
from trieline.common.file_lock import file_lock
from trieline.learner.config import EvaluationConfig, LearnerConfig, OptimizerConfig, WarmStartConfig
from trieline.learner.errors import TrainingError
from trieline.learner.keeping.checkpoint import latest_checkpoint, read_state
from trieline.learner.probe import CANARY, AgreementProbe
from trieline.learner.process import LOCK_FILE, LearnerRun, run_learner
from trieline.learner.training import WARM_START_EPISODES
from trieline.learner.update.learner import Learner
from trieline.wire.config import EnvConfig, EpisodeConfig, LinksConfig, ModelConfig
from trieline.wire.generate_link import PolicyClient
from trieline.wire.journal import read_journal
from trieline.wire.messages import Assignment, Sampling
from trieline.wire.task_lists import TaskLists

CONFIG = LearnerConfig(
    steps=4,
    trees_per_step=3,
    group_size=4,
    threads=1,
    batch_timeout_s=60.0,
    startup_timeout_s=60.0,
    optimizer=OptimizerConfig(lr=1e-3),
)

EVEN = EnvConfig(id="test/Even-v0")


EVALUATION = EvaluationConfig(episodes=2)


@pytest.fixture(scope="module")
def links(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LinksConfig]:
    """Addresses with a policy server that outlives the learners of the tests, as it would their restarts."""
    addresses = free_links()
    with policy_server(addresses, tiny_folder, tmp_path_factory.mktemp("server") / "log"):
        yield addresses


def run(
    config: LearnerConfig,
    links: LinksConfig,
    model: Path,
    run_dir: Path,
    *,
    resume: bool = False,
    evaluation: EvaluationConfig = EVALUATION,
    envs: Sequence[EnvConfig] = (EVEN,),
    tasks: Mapping[str, TaskLists] = MappingProxyType({}),
) -> int:
    return run_learner(
        LearnerRun(
            config=config,
            model=ModelConfig(path=str(model), dtype="float32"),
            envs=envs,
            links=links,
            run_dir=run_dir,
            seed=0,
            resume=resume,
            evaluation=evaluation,
            tasks=tasks,
        )
    )


def steps_of(run_dir: Path) -> list[dict[str, Any]]:
    return [r for r in records(run_dir) if "reward/mean" in r]


@pytest.mark.parametrize("max_staleness", [0, 2])
def test_a_live_run(max_staleness: int, links: LinksConfig, tiny_folder: Path, tmp_path: Path) -> None:
    config = msgspec.structs.replace(CONFIG, max_staleness=max_staleness, canary_every=1)
    evaluation = msgspec.structs.replace(EVALUATION, every=3)
    with EvenActor(links, break_every=3) as actor:
        assert run(config, links, tiny_folder, tmp_path, evaluation=evaluation) == 0
        actor.join()
        assert actor.stopped
    steps = steps_of(tmp_path)
    assert [r["step"] for r in steps] == [1, 2, 3, 4]
    assert [r["policy_version"] for r in steps] == [1, 2, 3, 4]
    assert max(r["off_policy/staleness/max"] for r in steps) <= max_staleness
    assert sum(r["off_policy/too_old_trees"] for r in steps) == 0
    assert max(r.get("mismatch_kl/logprob_max_abs", 0.0) for r in steps) < 1e-4
    assert sum(r.get("errored_rollouts/test/Even-v0/sandbox", 0) for r in steps) > 0
    # Whichever way, every step was compared: by its own trees, or by a canary.
    canaries = {r["step"]: r for r in records(tmp_path) if "mismatch_kl/canary/mean" in r}
    assert all("mismatch_kl/mean" in r or r["step"] in canaries for r in steps)
    assert max([r["mismatch_kl/canary/logprob_max_abs"] for r in canaries.values()], default=0) < 1e-4
    assert steps[-1]["sample"]["reply"] == "a reply"
    evaluated = {r["step"]: r["eval/test/Even-v0/avg@k"] for r in records(tmp_path) if "eval/mean" in r}
    assert evaluated == {0: 0.5, 3: 0.5, 4: 0.5}
    assert sorted(path.name for path in (tmp_path / "eval").iterdir()) == [
        f"step_{step}.json" for step in evaluated
    ]
    numbers = [d.sequence_number for d in read_journal(tmp_path / "journal")]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == len(actor.sent), "what is played for an evaluation is not trained on"


def test_a_run_goes_on_where_its_server_finishes_replies_before_it_takes_new_weights(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """Somebody's replies, longer than those of the run, are always under way when weights come."""
    links, over = free_links(), threading.Event()
    versions: list[list[int]] = []

    async def chat(client: PolicyClient, seed: int) -> None:
        while not over.is_set():
            prompt, sampling = np.full(8, 50, np.int32), Sampling(max_tokens=60, seed=seed)
            reply = await client.generate(prompt, sampling, timeout_s=60)
            versions.append(np.unique(reply.policy_versions).tolist())

    async def chats() -> None:
        client = PolicyClient(links)
        await client.start()
        try:
            await asyncio.gather(*(chat(client, seed) for seed in range(3)))
        finally:
            await client.close()

    config = msgspec.structs.replace(CONFIG, max_staleness=1, canary_every=1)
    with closing(Serving(links, tiny_folder, tmp_path / "fetch", in_flight_updates=False)):
        others = threading.Thread(target=lambda: asyncio.run(chats()))
        others.start()
        try:
            with EvenActor(links):
                assert run(config, links, tiny_folder, tmp_path / "run", evaluation=EVALUATION) == 0
        finally:
            over.set()
            others.join()
    steps = steps_of(tmp_path / "run")
    assert [r["policy_version"] for r in steps] == [1, 2, 3, 4]
    assert max(r["off_policy/staleness/max"] for r in steps) <= 1
    assert {len(one) for one in versions} == {1}
    assert len({one[0] for one in versions}) > 1, "under several versions, one after the other"


def test_a_run_without_an_evaluation_asks_for_training_alone(
    links: LinksConfig, tiny_folder: Path, tmp_path: Path
) -> None:
    config = msgspec.structs.replace(CONFIG, steps=1)
    with EvenActor(links) as actor:
        assert run(config, links, tiny_folder, tmp_path, evaluation=EvaluationConfig(episodes=0)) == 0
    assert {assignment.purpose for assignment in actor.asked} == {"train"}
    assert not (tmp_path / "eval").exists()


def test_a_second_learner_in_a_run_folder_is_refused(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A replay, which writes no journal that could tell.
    config = msgspec.structs.replace(CONFIG, replay=str(tmp_path / "elsewhere"))
    with file_lock(tmp_path / LOCK_FILE, what="to test"):
        assert run(config, free_links(), tiny_folder, tmp_path) == 1
    assert f"process {os.getpid()} holds {tmp_path / LOCK_FILE} to train in {tmp_path}" in caplog.text
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_folder_that_can_not_be_made_is_one_line(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    assert run(CONFIG, free_links(), tiny_folder, tmp_path / "file") == 1
    assert run(CONFIG, free_links(), tiny_folder, tmp_path / "file" / "run") == 1
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}/file: File exists",
        f"{tmp_path}/file/run: Not a directory",
    ]


def test_a_killed_learner_goes_on_and_loses_no_tree(
    links: LinksConfig, tiny_folder: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    config = msgspec.structs.replace(CONFIG, steps=200, checkpoint_every=2, max_staleness=1)
    encoded = [msgspec.json.encode(record).decode() for record in (links, config)]
    with EvenActor(links) as actor:
        with program(LEARNER, tmp_path / "log", str(tiny_folder), *encoded, str(run_dir)) as learner:
            wait_for_step(run_dir, 3)
            learner.kill()
        killed_at = steps_of(run_dir)[-1]["step"]
        threading.Thread(target=terminate_after, args=(run_dir, killed_at + 3), daemon=True).start()
        assert run(config, links, tiny_folder, run_dir, resume=True) == 0
        actor.join()
        assert actor.stopped
    checkpoint = latest_checkpoint(run_dir / "checkpoints")
    assert checkpoint is not None
    state = read_state(checkpoint)
    assert killed_at + 3 <= state.step < 200
    numbers = [d.sequence_number for d in read_journal(run_dir / "journal")]
    assert numbers == sorted(set(numbers)), "every tree once"
    assert len(numbers) == len(actor.sent), "every tree that was sent"
    assert [r["step"] for r in steps_of(run_dir)] == list(range(1, state.step + 1))
    assert state.records_taken == 3 * state.step, "every step used the next three"


def test_a_killed_learner_goes_on_in_the_list_where_it_was(
    links: LinksConfig, tiny_folder: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    tasks = {EVEN.id: TaskLists(train=tuple("abcdefghijk"), test=tuple("mno"))}
    config = msgspec.structs.replace(CONFIG, steps=22, checkpoint_every=4, max_staleness=1)
    encoded = [msgspec.json.encode(record).decode() for record in (links, config)]
    arguments = [str(tiny_folder), *encoded, str(run_dir), msgspec.json.encode(tasks).decode()]
    with EvenActor(links) as actor:
        with program(LEARNER, tmp_path / "log", *arguments) as learner:
            wait_for_step(run_dir, 6)
            learner.kill()
        # The actor goes on, and brings what it was asked for before.
        assert run(config, links, tiny_folder, run_dir, resume=True, tasks=tasks) == 0
        actor.join()
    evaluated = {a.task_id for a in actor.asked if a.purpose == "evaluate"}
    assert evaluated == {"m", "n"}
    checkpoint = latest_checkpoint(run_dir / "checkpoints")
    assert checkpoint is not None
    state = read_state(checkpoint)
    assert (state.step, state.records_taken) == (22, 66)
    used = Counter(d.tree.task_id for d in list(read_journal(run_dir / "journal"))[:66])
    course = state.curriculum["envs"][EVEN.id]["tasks"]
    # What was handed out: every task once in each epoch that is over, and those of the present one so far.
    turns = used + Counter(course["pending"]) - Counter(course["ahead"])
    assert set(turns) == set(tasks[EVEN.id].train)
    assert set(turns.values()) <= {course["epoch"], course["epoch"] + 1}
    assert course["epoch"] in {5, 6}
    assert steps_of(run_dir)[-1][f"curriculum/{EVEN.id}/seen"] == 1


def terminate_after(run_dir: Path, step: int) -> None:
    wait_for_step(run_dir, step)
    os.kill(os.getpid(), signal.SIGTERM)


def test_without_a_policy_server_it_says_who_is_missing(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = msgspec.structs.replace(CONFIG, startup_timeout_s=0.5)
    assert run(config, free_links(), tiny_folder, tmp_path) == 1
    assert "gave up after 0.5 s" in caplog.text
    assert "no policy server lives" in caplog.text


def test_without_actors_it_says_what_it_waited_for(
    links: LinksConfig, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = msgspec.structs.replace(CONFIG, batch_timeout_s=0.5)
    assert run(config, links, tiny_folder, tmp_path) == 1
    assert "waited 0.5 s for the next of the 3 trees of a step and got 0" in caplog.text
    assert "0 actors live" in caplog.text


def test_a_canary_compares_what_the_server_samples_now(
    links: LinksConfig, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learner = Learner(CONFIG, tiny_folder, dtype=torch.float32)
    probe = AgreementProbe(learner, links, tiny_folder)
    with open_links(links, tmp_path / "run") as live:
        live.publish(0, learner.weights())
        assert live.wait_loaded(0, late_s=60, absent_s=60)
        figures = probe.canary(timeout_s=60)
        assert figures["mismatch_kl/canary/logprob_max_abs"] < 1e-4
        learner.check_mismatch(figures, CANARY)
        # The server has missed an update of the weights, and does not know: the same version, other weights.
        for tensor in learner.masters().values():
            tensor.mul_(1.5)
        with pytest.raises(TrainingError, match=r"mismatch_kl/canary/mean is .* expected at most 0\.001"):
            learner.check_mismatch(probe.canary(timeout_s=60), CANARY)
        # It knows.
        learner.policy_version = 1
        assert not probe.canary(timeout_s=60)
    nobody = AgreementProbe(learner, free_links(), tiny_folder)
    assert not nobody.canary(timeout_s=0.1)
    assert "the policy server gave no tokens to compare" in caplog.text


def test_actors_that_stay_away_end_a_run_that_can_go_on(
    links: LinksConfig, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = msgspec.structs.replace(CONFIG, steps=1_000, batch_timeout_s=10.0)
    with EvenActor(links) as actor:

        def leave() -> None:
            wait_for_step(tmp_path, 2)
            actor.leave()

        leaving = threading.Thread(target=leave, daemon=True)
        leaving.start()
        assert run(config, links, tiny_folder, tmp_path) == 1
        leaving.join()
    assert "waited 10 s for the next of the 3 trees" in caplog.text
    checkpoint = latest_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    state = read_state(checkpoint)
    assert state.step == steps_of(tmp_path)[-1]["step"] >= 2
    with EvenActor(links, "another"):
        more = msgspec.structs.replace(config, steps=state.step + 1, batch_timeout_s=60.0)
        assert run(more, links, tiny_folder, tmp_path, resume=True) == 0


def test_a_policy_server_that_computes_something_else_is_found_out(
    links: LinksConfig, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The same shapes and weights, and other rotary positions.
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    config_json = folder / "config.json"
    config_json.write_text(config_json.read_text().replace("10000.0", "10.0"))
    assert run(CONFIG, links, folder, tmp_path / "run") == 1
    assert "policy server and learner compute different log-probabilities" in caplog.text


def test_a_warm_start_ends_at_a_measured_success(
    links: LinksConfig, tiny_folder: Path, tmp_path: Path
) -> None:
    measured = {"easy": [0.1, 0.6, 0.5, 0.5], "hard": [0.2, 0.2, 0.7, 0.7]}
    asked = Counter[str]()

    def success(assignment: Assignment) -> float:
        asked[assignment.env_id] += 1
        return measured[assignment.env_id][(asked[assignment.env_id] - 1) // WARM_START_EPISODES]

    config = msgspec.structs.replace(
        CONFIG, steps=1, warm_start=WarmStartConfig(target=0.5, evaluate_every=2, trees_per_step=4, lr=1e-3)
    )
    with EvenActor(links, success=success) as actor:
        envs = [EnvConfig(id="easy"), EnvConfig(id="hard")]
        greedy = msgspec.structs.replace(EVALUATION, attempts=2, temperature=0.0)
        assert run(config, links, tiny_folder, tmp_path, envs=envs, evaluation=greedy) == 0
    warm = [r for r in records(tmp_path) if "warm_start/step" in r]
    assert len(warm) == 6
    losses = [r["warm_start/loss"] for r in warm]
    assert losses[-1] < losses[0] - 0.5
    assert [r["warm_start/success/mean"] for r in warm if "warm_start/success/mean" in r] == pytest.approx(
        [0.15, 0.4, 0.6]
    )
    # Measured as training samples, whatever held-out success is measured at.
    evaluated = [(a.temperature, a.group_size) for a in actor.asked if a.purpose == "evaluate"]
    assert set(evaluated[: 3 * 2 * WARM_START_EPISODES]) == {(1.0, 1)}
    assert set(evaluated[3 * 2 * WARM_START_EPISODES :]) == {(0.0, 2)}
    shown = [a.env_id for a in actor.asked if a.purpose == "demonstrate"]
    assert shown[:16] == ["easy", "hard"] * 8
    # Once the easy one is there, only the hard one is shown.
    assert set(shown[-8:]) == {"hard"}
    (step,) = steps_of(tmp_path)
    assert step["policy_version"] == 7


def test_a_warm_start_that_is_stopped_goes_on_where_it_was(
    links: LinksConfig, tiny_folder: Path, tmp_path: Path
) -> None:
    config = msgspec.structs.replace(
        CONFIG, steps=1, warm_start=WarmStartConfig(target=0.5, evaluate_every=5, trees_per_step=2)
    )

    def warm_steps() -> list[int]:
        return [r["warm_start/step"] for r in records(tmp_path) if "warm_start/step" in r]

    def stop_in_it() -> None:
        while len(warm_steps()) < 7:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    with EvenActor(links, success=lambda assignment: 0.0) as first:
        threading.Thread(target=stop_in_it, daemon=True).start()
        assert run(config, links, tiny_folder, tmp_path) == 0
    checkpoint = latest_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    made = read_state(checkpoint).policy_version
    assert made >= 7
    with EvenActor(links, "another") as second:
        assert run(config, links, tiny_folder, tmp_path, resume=True) == 0
    assert warm_steps() == list(range(1, 5 * (made // 5 + 1) + 1))
    shown = [a.seed for a in (*first.asked, *second.asked) if a.purpose == "demonstrate"]
    assert len(set(shown)) == len(shown)


def test_a_context_beyond_the_model_s_positions_is_refused(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    env = EnvConfig(id="test/Even-v0", episode=EpisodeConfig(max_context=1_000_000))
    assert run(CONFIG, free_links(), tiny_folder, tmp_path, envs=[env]) == 1
    assert "test/Even-v0: expected episode.max_context of at most the" in caplog.text
    assert "got 1000000" in caplog.text
