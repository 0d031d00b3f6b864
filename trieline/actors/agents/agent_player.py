"""Episodes that an agent plays: it is started with the task, asks the gateway, and its environment scores it.

Invariant: every rollout of a group ends as a session that is closed, whatever becomes of the agent. One that
dies is a broken episode; one that takes too long is truncated, and what it did so far may count (`finish`).
"""

import asyncio
import logging
import math
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trieline.actors.agents.agent_process import (
    MARK,
    Ended,
    Programs,
    Start,
    Starter,
    end_all_of,
    read_errors,
    read_output,
)
from trieline.actors.agents.episode import Episode
from trieline.actors.agents.forked import ForkedPrograms
from trieline.actors.env_session import TaskChoice, split_asked
from trieline.actors.errors import EnvFailure
from trieline.actors.gateway.exchange import Closed
from trieline.actors.gateway.gateway import Gateway, limits_of
from trieline.actors.gateway.session import Session, reward_of
from trieline.actors.gateway.session_notes import bounded, session_notes
from trieline.actors.gateway.session_tree import session_tree
from trieline.actors.player import Stage
from trieline.actors.transcripts import transcript_of
from trieline.common.message import text_of
from trieline.common.numbers import MAX_REWARD
from trieline.common.owned_folder import OwnedFolder, new_folder
from trieline.common.text import encodable
from trieline.wire.config import AgentConfig, EnvConfig
from trieline.wire.messages import Assignment
from trieline.wire.tree import TrajectoryTree

log = logging.getLogger(__name__)

ENDED_REASON = "ended with status {status}: {errors}"
FOLDER_PREFIX = "trieline-agents-"
ARGUMENT_BYTES = 100_000
"""Of a task in an argument or a variable; the system takes 128 KiB."""


class AgentPlayer:
    """Plays the environments of a worker that have an agent."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._ended: dict[str, asyncio.Event] = {}
        self._episodes: dict[str, Episode] = {}
        self._starters: dict[str, Starter] = {}
        self._folder: OwnedFolder | None = None
        """Of the files of all episodes: a worker that is killed leaves it to the next one to remove."""
        self._gateway = Gateway(
            msgspec.structs.replace(
                stage.gateway,
                host="127.0.0.1",
                port=0,
                admin_key=secrets.token_urlsafe(24),  # agents must not reward themselves
                sampling="run",
                online=False,
                idle_timeout_s=math.inf,  # an episode has a deadline of its own
            ),
            renderer=stage.renderer,
            policy=stage.policy,
            limits=limits_of(stage.gateway, stage.config, max_context=1),  # each session has its own
            on_end=self._note_end,
            seed=stage.config.seed,
        )
        self._gateway.server.routes.environments = self._episodes

    async def start(self) -> None:
        """As in `WorkerPlayer`."""
        self._folder = new_folder(FOLDER_PREFIX)
        await self._gateway.start()

    async def close(self) -> None:
        """As in `WorkerPlayer`."""
        await self._gateway.close()
        for starter in self._starters.values():
            await starter.close()
        if self._folder is not None:
            await asyncio.to_thread(self._folder.close)

    async def play(self, assignment: Assignment) -> TrajectoryTree:
        """As in `Player`."""
        env = self._stage.envs[assignment.env_id]
        async with asyncio.TaskGroup() as tasks:
            playing = [
                tasks.create_task(self._in_slot(env, assignment)) for _ in range(assignment.group_size)
            ]
        sessions = [task.result() for task in playing]
        return session_tree(
            sessions,
            env_id=assignment.env_id,
            task_id=assignment.task_id or next((s.opened.task_id for s in sessions), ""),
            level=assignment.level or 0,
            info=_notes(sessions, assignment),
        )

    async def _in_slot(self, env: EnvConfig, assignment: Assignment) -> Session:
        async with self._stage.slots.episode():
            choice = TaskChoice(
                seed=assignment.seed,
                level=assignment.level,
                task_id=assignment.task_id,
                split=split_asked(env, assignment.split),
            )
            try:
                opened, task = await self._stage.host.open(env, choice)
            except EnvFailure as failure:
                session = self._open(env, assignment, "")
                await self._end(env, session, Closed(cause=failure.cause, reason=failure.reason))
                return session
            try:
                session = self._open(env, assignment, task.task_id)
                episode = Episode(session=session, env=opened, task=task)
                self._episodes[session.opened.key] = episode
                try:
                    closed = await self._play(env, episode)
                finally:
                    del self._episodes[session.opened.key]
            finally:
                opened.close()
            await self._end(env, session, closed, episode.rewards)
            return session

    def _open(self, env: EnvConfig, assignment: Assignment, task_id: str) -> Session:
        assert env.agent is not None
        limits = limits_of(
            msgspec.structs.replace(
                self._stage.gateway,
                sampling="run",
                max_tokens=env.episode.max_tokens,
                max_exchanges=env.agent.max_requests,
            ),
            self._stage.config,
            max_context=env.episode.max_context,
            temperature=assignment.temperature,
        )
        session = self._gateway.sessions.open(
            env_id=env.id, task_id=task_id, level=assignment.level or 0, limits=limits
        )
        self._ended[session.opened.session_id] = asyncio.Event()
        return session

    async def _play(self, env: EnvConfig, episode: Episode) -> Closed:
        """To its end. What it earned is in the episode."""
        agent = env.agent
        assert agent is not None
        assert self._folder is not None
        limit = env.episode.episode_timeout_s or self._stage.config.episode_timeout_s
        files: Path | None = None
        try:
            files = Path(tempfile.mkdtemp(dir=self._folder.path))
            start = self._start_of(agent, episode, files)
            try:
                async with asyncio.timeout(limit):
                    ended = await self._starter(agent).run(start)
            except TimeoutError:
                return await self._cut(env, episode, f"did not end within {limit:g} s")
            finally:
                # Of what it left, wherever it is; the loop goes on meanwhile.
                await asyncio.to_thread(end_all_of, episode.session.opened.session_id)
            return await self._scored(agent, episode, start, ended)
        except EnvFailure as failure:
            return Closed(cause=failure.cause, reason=failure.reason)
        except OSError as error:
            return Closed(cause="environment", reason=f"{env.id}: can't start {agent.command[0]}: {error}")
        finally:
            if files is not None:
                await asyncio.to_thread(shutil.rmtree, files, ignore_errors=True)

    async def _scored(self, agent: AgentConfig, episode: Episode, start: Start, ended: Ended) -> Closed:
        env_id = episode.session.opened.env_id
        if ended.status != 0:
            why = ENDED_REASON.format(status=ended.status, errors=read_errors(start).strip())
            return Closed(cause="environment", reason=f"{env_id}: its agent {why}")
        if not episode.session.exchanges:
            reason = f"{env_id}: its agent ended without asking the policy: {read_errors(start).strip()}"
            return Closed(cause="environment", reason=reason)
        if (count := len(episode.session.history.tips())) > agent.max_windows:
            reason = f"{env_id}: expected at most {agent.max_windows} sequences of its agent, got {count}"
            return Closed(cause="environment", reason=reason)
        # Space around it is of the program, not of the answer.
        output = read_output(start, agent.max_output).strip() if agent.hand_in == "output" else None
        await episode.end(output)
        return Closed(terminated=episode.terminated, score=episode.score)

    async def _cut(self, env: EnvConfig, episode: Episode, why: str) -> Closed:
        """The episode as far as it came."""
        if not episode.session.exchanges:
            return Closed(cause="timeout", reason=f"{env.id}: its agent {why} and never asked the policy")
        await episode.end()
        return Closed(terminated=episode.terminated, score=episode.score, reason=f"its agent {why}")

    async def _end(self, env: EnvConfig, session: Session, closed: Closed, reward: float = 0.0) -> None:
        if not closed.cause and reward_of(reward) is None:
            reason = f"{env.id}: expected rewards of at most {MAX_REWARD:g} together, got {reward:g}"
            closed = Closed(cause="environment", reason=reason)
        if closed.cause:
            self._stage.host.broken.add(env.id, closed.cause, closed.reason)
        else:
            closed = msgspec.structs.replace(closed, reward=reward)
        self._gateway.sessions.close(session, closed)
        await self._ended[session.opened.session_id].wait()
        del self._ended[session.opened.session_id]

    async def _note_end(self, session: Session) -> None:
        self._ended[session.opened.session_id].set()

    def _starter(self, agent: AgentConfig) -> Starter:
        key = "\n".join(agent.preload)
        if key not in self._starters:
            self._starters[key] = ForkedPrograms(agent.preload) if agent.preload else Programs()
        return self._starters[key]

    def _start_of(self, agent: AgentConfig, episode: Episode, files: Path) -> Start:
        session, text = episode.session, encodable(text_of(episode.task.messages), 1 << 24)
        folder = files / "work"
        folder.mkdir()
        task = files / "task.txt"
        task.write_text(text, encoding="utf-8")
        in_argument = text if len(text.encode()) <= ARGUMENT_BYTES else f"(see {task})"
        told = {"{task}": in_argument.replace("\0", ""), "{task_file}": str(task)}
        program, *arguments = [told.get(part, part) for part in agent.command]
        urls, key = self._gateway.server.urls(session), session.opened.key
        base, own = f"{self._gateway.server.url}/s/{key}", agent.environment.items()
        return Start(
            argv=[sys.executable if program == "python" else program, *arguments],
            environment={
                **os.environ,
                "OPENAI_BASE_URL": urls["openai_base_url"],
                "OPENAI_API_BASE": urls["openai_base_url"],
                "OPENAI_API_KEY": key,
                "ANTHROPIC_BASE_URL": urls["anthropic_base_url"],
                "ANTHROPIC_API_KEY": key,
                "TRIELINE_TASK_URL": f"{base}/task",
                "TRIELINE_STEP_URL": f"{base}/step",
                MARK: session.opened.session_id,
                **{name: value.replace("{step_url}", f"{base}/step") for name, value in own},
            },
            folder=folder,
            files=files,
            task=task,
        )


def _notes(sessions: Sequence[Session], assignment: Assignment) -> dict[str, str]:
    """As those of the other players."""
    notes = bounded(session_notes(sessions) | {"split": assignment.split or ""})
    first = next((s for s in sessions if s.exchanges), None)
    if assignment.purpose == "evaluate" and first is not None:
        said = [(m.role, m.content) for e in first.exchanges for m in (*e.said, e.reply)]
        notes["transcript"] = transcript_of(said)
    return notes
