"""`trieline bench swe` killed and resumed: the same report as if nothing had been, and nothing left."""

import random
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.cases.commands import left_behind
from tests.end_to_end.killed_bench import KilledBench, Victim, killed_at_random
from tests.launcher.benches import IDS, arguments, asked_about, gold_reply, sample_rows
from tests.wire.chat_server import Answer, chat_server
from trieline.envs.swe.observations import SUBMIT
from trieline.envs.swe.replies import written
from trieline.wire.journal import read_journal


def bench(folder: Path, rows: Path, policy: str, *more: str) -> KilledBench:
    folder.mkdir()
    command = arguments(rows, folder / "out", policy, *more)
    at = command.index("--output")
    return KilledBench(arguments=[*command[:at], *command[at + 2 :]], folder=folder)


@pytest.mark.end_to_end
@pytest.mark.parametrize("victim", ["main", "group"])
def test_killed_once_in_the_middle(tmp_path: Path, victim: str) -> None:
    rows = sample_rows(tmp_path)
    killed = bench(tmp_path / "killed", rows, "gold")
    killed.kill("main" if victim == "main" else "group", 1.5)
    killed.finish()
    killed.expect_nothing_left()
    assert killed.reports()["gold.trieline.json"]["resolved_ids"] == IDS


@pytest.mark.end_to_end
def test_ctrl_c_ends_episodes_at_once_and_says_how_to_go_on(tmp_path: Path) -> None:
    asked = threading.Event()
    hangs = True

    def script(body: dict[str, Any]) -> str | Answer:
        asked.set()
        return Answer(hangs=True) if hangs else gold_reply(asked_about(body))

    with chat_server(script) as server:
        stopped = bench(tmp_path / "stopped", sample_rows(tmp_path), f"openai:{server.url}", "--model", "m")
        process = stopped.start()
        assert asked.wait(60)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert "stopped. Go on with: trieline bench swe" in (stopped.folder / "stdout").read_text()
        stopped.expect_nothing_left()
        hangs = False
        stopped.finish()
    assert stopped.reports()["m.trieline.json"]["resolved_ids"] == IDS


@pytest.mark.end_to_end
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("policy", ["gold", "replay"])
def test_killed_at_five_random_moments(tmp_path: Path, policy: str) -> None:
    rows = sample_rows(tmp_path)
    whole = bench(tmp_path / "whole", rows, "gold")
    if policy == "replay":
        whole.finish()
        policy = f"replay:{whole.output / 'predictions.jsonl'}"
        whole = bench(tmp_path / "replayed", rows, policy)
    killed_at_random(whole, bench(tmp_path / "killed", rows, policy), kills=5, rng=random.Random(1))


@pytest.mark.end_to_end
@pytest.mark.long
@pytest.mark.timeout(900)
def test_episodes_killed_at_five_random_moments_are_each_there_once(tmp_path: Path) -> None:
    """The model looks around first; then it solves one task always, two by the seed and one never."""
    rows = sample_rows(tmp_path)
    seeds: dict[str, set[int]] = {task: set() for task in IDS}

    def script(body: dict[str, Any]) -> str:
        task, seed = asked_about(body), body["seed"]
        if len(body["messages"]) == 2:
            return written("ls")
        seeds[task.instance_id].add(seed)
        number = IDS.index(task.instance_id)
        solves = number == 0 or (number < 3 and seed % 2 == number % 2)
        return gold_reply(task) if solves else written(f"echo '#' > odd.py && echo {SUBMIT}")

    with chat_server(script) as server:
        more = ["--model", "me/model", "--n", "3"]
        whole = bench(tmp_path / "whole", rows, f"openai:{server.url}", *more)
        killed = bench(tmp_path / "killed", rows, f"openai:{server.url}", *more)
        killed_at_random(whole, killed, kills=5, rng=random.Random(2))
    trees = [delivery.tree for delivery in read_journal(killed.output / "journal")]
    assert Counter((t.task_id, t.info["attempt"]) for t in trees) == Counter(
        (i, n) for i in IDS for n in "123"
    )
    assert all(len(found) == 3 for found in seeds.values())
    assert not (killed.output / "played").exists()


@pytest.mark.end_to_end
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_served_policy_is_gone_with_the_bench_that_was_killed(tmp_path: Path) -> None:
    limits = ["max_turns=3", "max_tokens=16", "max_context=4096"]
    short = [word for limit in limits for word in ("--set", f"envs.0.episode.{limit}")]
    killed = bench(tmp_path / "killed", sample_rows(tmp_path), "run:builtin:tiny", "--n", "2", *short)
    journal = killed.output / "journal"
    victims: tuple[Victim, ...] = ("main", "group")
    for victim in victims:
        before = size_of(journal)
        killed.kill_when(victim, lambda before=before: size_of(journal) > before)  # type: ignore[misc]
        assert left_behind(killed.mark) == []
    killed.finish()
    killed.expect_nothing_left()
    trees = [delivery.tree for delivery in read_journal(journal)]
    assert Counter((t.task_id, t.info["attempt"]) for t in trees) == Counter(
        (i, n) for i in IDS for n in "12"
    )
    assert all(tree.info["ending"] == "turn limit" and tree.sequence_return(0) == 0 for tree in trees)
    assert killed.reports()["summary.json"]["episodes"]["turns"] == 3 * len(trees)


def size_of(journal: Path) -> int:
    return max(sum(path.stat().st_size for path in journal.glob("trees-*")), 16)
