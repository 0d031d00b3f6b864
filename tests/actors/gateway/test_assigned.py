"""Sessions that fulfil assignments of a learner, on real sockets: seats, and what a restart makes of them."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.actors.gateway.served import run
from tests.actors.peers import Learner, ipc_links
from tests.actors.scripted_policy import ScriptedPolicy
from trieline.actors.chat import ChatRenderer
from trieline.actors.config import ActorConfig
from trieline.actors.env_session import EnvHost
from trieline.actors.episode_slots import EpisodeSlots
from trieline.actors.errors import GatewayRecordError
from trieline.actors.gateway.assigned import AssignedSessions
from trieline.actors.gateway.config import GatewayConfig
from trieline.actors.gateway.lasting_name import lasting_name
from trieline.actors.player import Stage
from trieline.wire.config import EnvConfig
from trieline.wire.messages import Assignment
from trieline.wire.trajectory_link import TreeSender

ENV_ID = "test/Elsewhere-v0"


class Life:
    """One process of a gateway, from its start to its end."""

    def __init__(self, http: aiohttp.ClientSession, url: str, trees: TreeSender) -> None:
        self._http = http
        self.url = url
        self.trees = trees

    async def post(self, path: str, body: dict[str, Any] | None = None, key: str = "") -> Any:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        while True:
            async with self._http.post(f"{self.url}{path}", json=body or {}, headers=headers) as response:
                if response.status != 429:
                    response.raise_for_status()
                    return await response.json()
            await asyncio.sleep(0.05)

    async def talk(self, key: str) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": f"I am {key}."}]}
        await self.post("/v1/chat/completions", body, key)

    async def end(self, session_id: str, reward: float) -> None:
        await self.post(f"/sessions/{session_id}/close", {"reward": reward})

    async def health(self) -> dict[str, int]:
        async with self._http.get(f"{self.url}/health") as response:
            found: dict[str, int] = await response.json()
            return found


@asynccontextmanager
async def life(
    folder: Path,
    renderer: ChatRenderer,
    *,
    record: Path | None = None,
    online: bool = False,
    unseated: int = 9,
) -> AsyncIterator[Life]:
    host = EnvHost(threads=1, max_stuck=1, call_timeout_s=10)
    trees = TreeSender(ipc_links(folder), actor_id="gateway", capacity=4, lasting=True)
    stage = Stage(
        config=ActorConfig(),
        envs={ENV_ID: EnvConfig(id=ENV_ID)},
        renderer=renderer,
        policy=ScriptedPolicy(renderer, lambda prompt, sampling: "good"),
        host=host,
        slots=EpisodeSlots(4),
        gateway=GatewayConfig(port=0, online=online, unseated_sessions=unseated),
        trees=trees,
    )
    player = AssignedSessions(stage, record=record)

    async def play(assignment: Assignment) -> None:
        await trees.send(assignment.assignment_id, await player.play(assignment))

    async def work() -> None:
        playing = []
        while True:
            playing.append(asyncio.create_task(play(await trees.next_assignment())))

    await player.start()
    await trees.start()
    working = asyncio.create_task(work())
    try:
        async with aiohttp.ClientSession() as http:
            yield Life(http, player._gateway.server.url, trees)
    finally:
        working.cancel()
        await player.close()
        await trees.close()
        await host.close()


async def empty(record: Path) -> None:
    while [*record.glob("*.session.jsonl")]:
        await asyncio.sleep(0.01)


def returns(learner: Learner, number: int) -> list[float]:
    tree = learner.journal[number].tree
    return sorted(tree.sequence_return(leaf) for leaf in range(tree.num_leaves))


def test_a_group_whose_first_session_ended_before_a_restart_becomes_one_tree(
    tmp_path: Path, renderer: ChatRenderer
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"

    async def play(learner: Learner) -> None:
        async with life(tmp_path, renderer, record=first) as gateway:
            ended, going_on = [await gateway.post("/sessions") for _ in range(2)]
            for session in (ended, going_on):
                await gateway.talk(session["key"])
            await gateway.end(ended["session_id"], 1.0)
            # As a kill -9 leaves it.
            shutil.copytree(first, second)
        async with life(tmp_path, renderer, record=second) as gateway:
            await gateway.talk(going_on["key"])
            await gateway.end(going_on["session_id"], 2.0)
            third = await gateway.post("/sessions")
            await gateway.end(third["session_id"], 3.0)
            await empty(second)
        assert [delivery.assignment_id for delivery in learner.journal] == [0]
        assert returns(learner, 0)[-2:] == [1.0, 2.0]

    with Learner(ipc_links(tmp_path)) as learner:
        learner.offer(ENV_ID, 1, group_size=3)
        run(play(learner))


def test_sessions_of_a_group_that_comes_again_are_not_among_the_unseated_ones(
    tmp_path: Path, renderer: ChatRenderer
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"

    async def play(learner: Learner) -> None:
        async with life(tmp_path, renderer, record=first) as gateway:
            sessions = [await gateway.post("/sessions") for _ in range(3)]
            for session in sessions:
                await gateway.talk(session["key"])
            for session, reward in zip(sessions[:2], (1.0, 2.0), strict=True):
                await gateway.end(session["session_id"], reward)
            shutil.copytree(first, second)
        async with life(tmp_path, renderer, record=second, unseated=1) as gateway:
            await gateway.end(sessions[2]["session_id"], 3.0)
            await empty(second)
        assert returns(learner, 0) == [1.0, 2.0, 3.0]

    with Learner(ipc_links(tmp_path)) as learner:
        learner.offer(ENV_ID, 1, group_size=3)
        run(play(learner))


def test_a_tree_that_the_learner_has_already_is_not_taken_again_after_a_restart(
    tmp_path: Path, renderer: ChatRenderer
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"

    async def play(learner: Learner) -> None:
        async with life(tmp_path, renderer, record=first) as gateway:
            session = await gateway.post("/sessions")
            await gateway.talk(session["key"])
            await gateway.end(session["session_id"], 1.0)
            # Of the group's other session, which ends while the first one's end is on the disk.
            other = await gateway.post("/sessions")
            await gateway.talk(other["key"])
            shutil.copytree(first, second)
            await gateway.end(other["session_id"], 0.5)
            await empty(first)
        # The gateway was killed before it heard that the learner has the tree.
        async with life(tmp_path, renderer, record=second) as gateway:
            await gateway.end(other["session_id"], 0.5)
            await empty(second)
            assert gateway.trees.rejected == 0
        assert learner.receiver.duplicates == 1
        assert len(learner.journal) == 1

    with Learner(ipc_links(tmp_path)) as learner:
        learner.offer(ENV_ID, 1, group_size=2)
        run(play(learner))


def test_seats_of_a_tree_that_the_learner_has_are_not_given_again(
    tmp_path: Path, renderer: ChatRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, unlink = tmp_path / "first", tmp_path / "second", Path.unlink

    def unlink_one(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        # As a kill leaves it between one session of the group and the next.
        if path.name.endswith(".session.jsonl") and not second.exists():
            shutil.copytree(first, second)

    async def play(learner: Learner) -> None:
        async with life(tmp_path, renderer, record=first) as gateway:
            for session in [await gateway.post("/sessions") for _ in range(2)]:
                await gateway.talk(session["key"])
                await gateway.end(session["session_id"], 1.0)
            await empty(first)
        async with life(tmp_path, renderer, record=second):
            assert [*second.iterdir()] == []
        assert len(learner.journal) == 1

    monkeypatch.setattr(Path, "unlink", unlink_one)
    with Learner(ipc_links(tmp_path)) as learner:
        learner.offer(ENV_ID, 1, group_size=2)
        run(play(learner))


def test_sessions_of_another_run_take_the_next_seats_of_their_task_when_they_end(
    tmp_path: Path, renderer: ChatRenderer
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"

    async def before() -> dict[str, Any]:
        async with life(tmp_path, renderer, record=first) as gateway:
            session: dict[str, Any] = await gateway.post("/sessions")
            await gateway.talk(session["key"])
            shutil.copytree(first, second)
            return session

    async def after(session: dict[str, Any]) -> None:
        async with life(tmp_path, renderer, record=second) as gateway:
            await gateway.end(session["session_id"], 4.0)
            await empty(second)

    with Learner(ipc_links(tmp_path)) as learner:
        learner.offer(ENV_ID, 1, first=7, group_size=1)
        kept: list[dict[str, Any]] = []

        async def note() -> None:
            kept.append(await before())

        run(note())
    with Learner(ipc_links(tmp_path), run_id="another") as learner:
        learner.offer(ENV_ID, 1, first=7, group_size=1)
        run(after(kept[0]))
        assert [delivery.run_id for delivery in learner.journal] == ["another"]
        assert returns(learner, 0) == [4.0]


def test_sessions_that_open_themselves_take_a_free_seat_or_the_next_one(
    tmp_path: Path, renderer: ChatRenderer
) -> None:
    async def play(learner: Learner) -> None:
        async with life(tmp_path, renderer, record=tmp_path / "record", online=True) as gateway:
            # No seat is there yet, and nobody is turned away.
            await gateway.talk("early")
            learner.offer(ENV_ID, 1, group_size=1)
            while not gateway.trees.run_of(0):
                await asyncio.sleep(0.01)
            # This one has the only seat, so the early one waits for another.
            await gateway.talk("seated")
            learner.offer(ENV_ID, 1, first=1, group_size=1)
            ids = [path.name.partition(".")[0] for path in (tmp_path / "record").glob("*.jsonl")]
            assert len(ids) == 2
            for session_id in ids:
                await gateway.end(session_id, 1.0)
            await empty(tmp_path / "record")
            assert (await gateway.health())["open_sessions"] == 0
        said = {delivery.assignment_id: delivery.tree.info["prompt"] for delivery in learner.journal}
        assert "I am seated." in said[0]
        assert "I am early." in said[1]

    with Learner(ipc_links(tmp_path)) as learner:
        run(play(learner))


def test_of_those_that_find_no_seat_the_last_ones_are_kept(
    tmp_path: Path, renderer: ChatRenderer, caplog: pytest.LogCaptureFixture
) -> None:
    record = tmp_path / "record"

    async def play(learner: Learner) -> None:
        async with life(tmp_path, renderer, record=record, online=True, unseated=2) as gateway:
            ids: dict[str, str] = {}
            for key in ("first", "second", "third", "fourth"):
                await gateway.talk(key)
                (new,) = {path.name.partition(".")[0] for path in record.glob("*.jsonl")} - {*ids.values()}
                ids[key] = new
            for key in ("second", "first", "third"):
                await gateway.end(ids[key], 1.0)
            while (record / f"{ids['second']}.session.jsonl").exists():
                await asyncio.sleep(0.01)
            assert f"session {ids['second']} is forgotten: more than 2 wait" in caplog.text
            assert len([*record.glob("*.jsonl")]) == 3
            learner.offer(ENV_ID, 1, group_size=2)
            while len([*record.glob("*.jsonl")]) > 1:
                await asyncio.sleep(0.01)
            # Nobody who still works is forgotten.
            await gateway.talk("fourth")

    with Learner(ipc_links(tmp_path)) as learner:
        run(play(learner))
        assert len(learner.journal) == 1
        assert returns(learner, 0) == [1.0, 1.0]


def test_a_folder_has_one_gateway_at_a_time_and_its_name_lasts(tmp_path: Path) -> None:
    with lasting_name(tmp_path) as name:
        assert name
        with pytest.raises(GatewayRecordError, match="the only gateway"), lasting_name(tmp_path):
            pass
    with lasting_name(tmp_path) as again:
        assert again == name
    (tmp_path / "name").write_bytes(b"\n")
    with pytest.raises(GatewayRecordError, match="the name of a gateway"), lasting_name(tmp_path):
        pass
