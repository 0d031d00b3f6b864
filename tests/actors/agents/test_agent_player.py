"""Agents that are real processes play the episodes of an environment, well and badly."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from tests.actors.chat_folder import write_chat_folder
from tests.actors.fake_envs import COUNTING, FINISHING
from tests.actors.scripted_policy import ScriptedPolicy
from trieline.actors.agents.agent_process import end_all_of
from trieline.actors.chat import ChatRenderer
from trieline.actors.config import ActorConfig
from trieline.actors.env_session import EnvHost
from trieline.actors.episode_slots import EpisodeSlots
from trieline.actors.gateway.config import GatewayConfig
from trieline.actors.gymnasium_player import play_environments
from trieline.actors.player import Stage
from trieline.wire.config import AgentConfig, EnvConfig, EpisodeConfig
from trieline.wire.messages import Assignment
from trieline.wire.tree import TrajectoryTree

AGENT = str(Path(__file__).parent / "talking.py")


def played(
    folder: Path,
    manner: str,
    *,
    env_id: str = COUNTING,
    env: dict[str, Any] | None = None,
    group_size: int = 2,
    timeout_s: float = 60.0,
    idle_s: float = 3600.0,
    **agent: Any,
) -> TrajectoryTree:
    write_chat_folder(folder / "model")
    renderer = ChatRenderer(folder / "model")
    config = EnvConfig(
        id=env_id,
        kwargs=env or {},
        episode=EpisodeConfig(max_context=4096, episode_timeout_s=timeout_s),
        agent=AgentConfig(command=["python", AGENT, manner], **agent),
    )

    async def run() -> TrajectoryTree:
        host = EnvHost(threads=4, max_stuck=1, call_timeout_s=10)
        stage = Stage(
            config=ActorConfig(episodes=4),
            envs={env_id: config},
            renderer=renderer,
            policy=ScriptedPolicy(renderer, lambda prompt, sampling: "good"),
            host=host,
            slots=EpisodeSlots(4),
            gateway=GatewayConfig(idle_timeout_s=idle_s),
        )
        player = play_environments(stage)
        await player.start()
        try:
            assignment = Assignment(assignment_id=1, env_id=env_id, seed=5, group_size=group_size)
            return await player.play(assignment)
        finally:
            await player.close()
            await host.close()

    tree = asyncio.run(run())
    tree.validate()
    return tree


@pytest.mark.parametrize("preload", [[], ["json", "urllib.request"]])
def test_what_an_agent_prints_is_its_action(tmp_path: Path, preload: list[str]) -> None:
    tree = played(tmp_path, "printing", env={"turns": 1}, preload=preload)
    assert tree.leaf_causes == ("", "")
    assert [tree.sequence_return(leaf) for leaf in range(2)] == [1.0, 1.0]
    assert tree.leaf_terminated.tolist() == [True, True]
    assert tree.task_id == "train-5-0"
    assert tree.info["reply"] == "good"


def test_an_agent_acts_step_by_step(tmp_path: Path) -> None:
    tree = played(tmp_path, "stepping", hand_in="steps")
    assert tree.leaf_causes == ("", "")
    assert tree.num_leaves == 2
    # Three turns each, in one sequence.
    assert int(tree.sampled.sum()) == 6
    assert tree.sequence_return(0) == pytest.approx(1 / 3 + 2 / 3 + 1)


@pytest.mark.parametrize("preload", [[], ["json"]])
def test_an_agent_that_dies_is_a_broken_episode(tmp_path: Path, preload: list[str]) -> None:
    tree = played(tmp_path, "dying", preload=preload)
    assert tree.leaf_causes == ("environment", "environment")
    assert "ended with status 1: out of ideas" in tree.info["broken"]
    # What it sampled is there all the same.
    assert int(tree.sampled.sum()) == 2


def test_an_agent_that_asks_nothing_is_a_broken_episode(tmp_path: Path) -> None:
    tree = played(tmp_path, "silent")
    assert tree.leaf_causes == ("environment", "environment")
    assert "without asking the policy" in tree.info["broken"]


def test_a_program_that_is_not_there_is_a_broken_episode(tmp_path: Path) -> None:
    write_chat_folder(tmp_path / "model")
    tree = played(tmp_path, "printing", environment={"PYTHONHOME": "/nowhere"}, group_size=1)
    assert tree.leaf_causes == ("environment",)


@pytest.mark.parametrize("preload", [[], ["json", "urllib.request", "subprocess"]])
def test_an_agent_that_hangs_is_cut_and_ended_with_its_children(tmp_path: Path, preload: list[str]) -> None:
    child = tmp_path / "child"
    tree = played(
        tmp_path,
        "hanging",
        env_id=FINISHING,
        env={"turns": 3},
        group_size=1,
        timeout_s=4.0,
        idle_s=0.1,  # holds for agents that nobody started here
        preload=preload,
        environment={"CHILD_FILE": str(child)},
    )
    assert tree.leaf_causes == ("",)
    assert tree.leaf_terminated.tolist() == [False]
    assert not _runs(int(child.read_text()))


@pytest.mark.parametrize("preload", [[], ["this"]])  # which prints as it is imported
def test_a_copy_that_an_agent_leaves_behind_is_ended_with_it(tmp_path: Path, preload: list[str]) -> None:
    child = tmp_path / "child"
    tree = played(
        tmp_path,
        "leaving",
        env={"turns": 1},
        group_size=1,
        preload=preload,
        environment={"CHILD_FILE": str(child)},
    )
    assert tree.sequence_return(0) == 1.0
    assert not _runs(int(child.read_text()))


def test_an_agent_cannot_reward_itself(tmp_path: Path) -> None:
    tree = played(tmp_path, "cheating", env={"turns": 1}, group_size=1)
    assert tree.leaf_causes == ("",)
    assert "rewards 401 close 401 sessions 401" in tree.info["score"]
    assert tree.sequence_return(0) == 0.0


def test_too_many_requests_are_a_broken_episode(tmp_path: Path) -> None:
    tree = played(tmp_path, "stepping", hand_in="steps", max_requests=2)
    assert tree.leaf_causes == ("environment", "environment")
    assert int(tree.sampled.sum()) == 4


def test_processes_are_ended_by_their_mark_alone() -> None:
    assert end_all_of("nobody has this") == 0


def _runs(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        path = Path(f"/proc/{pid}/stat")
        try:
            if path.read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except OSError:
            return False
        time.sleep(0.05)
    return True
