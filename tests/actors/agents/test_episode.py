"""An agent's game with its environment, where the agent goes in the middle of a move."""

import asyncio

import pytest

from trieline.actors.agents.episode import Episode
from trieline.actors.env_returns import Ending, Step, Task
from trieline.actors.env_session import EnvSession
from trieline.actors.gateway.errors import ConflictError
from trieline.actors.gateway.exchange import Opened
from trieline.actors.gateway.session import Session


class Slow(EnvSession):
    """Waits in each step until it is told to go on."""

    def __init__(self, *, terminated: bool = False) -> None:
        self.terminated = terminated
        self.calls: list[str] = []
        self.began = asyncio.Event()
        self.go_on = asyncio.Event()

    async def step(self, action: str) -> Step:
        self.calls.append(f"begins {action}")
        self.began.set()
        await self.go_on.wait()
        self.calls.append(f"ends {action}")
        return Step(messages=(), reward=1.0, terminated=self.terminated, truncated=False, score="")

    async def finish(self) -> Ending | None:
        self.calls.append("finish")
        return Ending(reward=2.0, score="enough")


def episode_in(env: EnvSession) -> Episode:
    session = Session(opened=Opened(session_id="s", key="k", unix_s=0.0))
    return Episode(session=session, env=env, task=Task(messages=(), task_id="t"))


def test_an_agent_that_is_ended_in_mid_step_leaves_the_environment_one_call_at_a_time() -> None:
    async def play() -> None:
        env = Slow()
        episode = episode_in(env)
        acting = asyncio.create_task(episode.act("a"))
        await env.began.wait()
        acting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await acting
        ending = asyncio.create_task(episode.end())
        for _ in range(5):
            await asyncio.sleep(0)
        assert env.calls == ["begins a"]
        env.go_on.set()
        await ending
        assert env.calls == ["begins a", "ends a", "finish"]
        assert episode.rewards == 3.0
        with pytest.raises(ConflictError, match="is over"):
            await episode.act("b")

    asyncio.run(play())


def test_a_last_step_that_ends_the_game_leaves_nothing_to_hand_in() -> None:
    async def play() -> None:
        env = Slow(terminated=True)
        episode = episode_in(env)
        acting = asyncio.create_task(episode.act("a"))
        await env.began.wait()
        ending = asyncio.create_task(episode.end("output"))
        await asyncio.sleep(0)
        env.go_on.set()
        await asyncio.gather(acting, ending)
        assert env.calls == ["begins a", "ends a"]
        assert episode.terminated
        assert episode.rewards == 1.0

    asyncio.run(play())
