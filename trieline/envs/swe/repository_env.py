"""Mend a repository: an agent with a shell in it, judged by tests that it does not see.

An episode is a chat with a shell, one command a turn, on a task in the schema of SWE-bench. Its end is graded
in a clean workspace, never in the one that the agent had, by the very grader of `trieline bench swe`. A
sandbox that fails raises SandboxError, and the episode is broken; what the agent brings about is its result.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from trieline.envs.datasets.task_set_env import TaskSetEnv
from trieline.envs.errors import DataError, TaskError
from trieline.envs.sandbox import WORKSPACE, Backend, ExecResult, shared_places
from trieline.envs.sandbox.base import NO_MORE_VARIABLES
from trieline.envs.sandbox.pool import default_size
from trieline.envs.swe.agent_workspace import AgentWorkspace
from trieline.envs.swe.edits import edit_file
from trieline.envs.swe.gold import gold_commands
from trieline.envs.swe.grading import Grade, exam_of, grade
from trieline.envs.swe.hand_in import HandIn, write_hand_in
from trieline.envs.swe.history import HISTORY_SECONDS, Changes
from trieline.envs.swe.observations import (
    MOST_AROUND,
    MOST_STATEMENT,
    SUBMIT,
    first_observation,
    is_submission,
    output_shown,
)
from trieline.envs.swe.replies import Edit, Misunderstood, read_reply, written
from trieline.envs.swe.repository_task import WORKDIR, RepositoryTask
from trieline.envs.swe.sample import sample_checkouts, sample_tasks
from trieline.envs.swe.shell_episode import ShellEpisode
from trieline.envs.swe.task_set import RepositorySet, read_task_set, shared_out
from trieline.envs.swe.workspaces import GRADING, Workspaces, workspaces_on
from trieline.envs.text_env import Split, Turn
from trieline.envs.text_space import Text

LEAST_SHOWN = 200
"""Bytes of output."""
PIDS, DISK_BYTES = 512, 2**30
"""Of an agent's commands, and what they may change in its workspace."""
MOST_MESSAGE = 200
"""Characters of `score["message"]`."""


class RepositoryEnv(ShellEpisode[RepositoryTask], TaskSetEnv[RepositoryTask]):
    """Reward 1 if the patch resolves the task: FAIL_TO_PASS and PASS_TO_PASS all pass, as SWE-bench counts.

    `partial_credit`: else the share of FAIL_TO_PASS that passes, as long as no test of PASS_TO_PASS breaks
    and the grader has nothing against the patch.

    Args:
        data: rows with an `eval_script`, a file or the folder of a data set. None: the tasks of `sample`.
        checkouts: a folder with the repository of each instance under its id, for bubblewrap.
        backend: `auto`: bubblewrap where there are checkouts, else Docker with the images of the rows.
        split: of a folder that has both, as it says there; else a task is held out if the first four bytes of
            the SHA-256 of its instance id, as a number, are below `test_share` of 2**32.
        level: tasks of each split by the lines that the gold patch changes, in up to three equal parts.
        edits: a reply may replace an exact text of a file, instead of a command.
        steps: replies, after which the files are graded as they are.
        command_seconds: for one command.
        output_bytes: shown of its output, half of them its head and half its tail.
        test_seconds: for the tests. A call of `step` may take as long as both, and some more.
        workspaces: of agents, open at once in this process.
        hand_in: a folder. The patch is kept there (see `hand_in`) and not graded: the reward is 0.
    """

    _workspace: AgentWorkspace

    def __init__(
        self,
        *,
        data: str | Path | None = None,
        checkouts: str | Path | None = None,
        backend: Backend = "auto",
        split: Split = "train",
        level: int = 0,
        test_share: float = 0.2,
        edits: bool = False,
        partial_credit: bool = False,
        steps: int = 100,
        command_seconds: float = 60.0,
        output_bytes: int = 10_000,
        test_seconds: float = 1200.0,
        workspaces: int = 64,
        hand_in: str | Path | None = None,
        render_mode: str | None = None,
    ) -> None:
        _check_at_least(
            (steps, 1, "steps"),
            (command_seconds, 0.1, "command_seconds"),
            (output_bytes, LEAST_SHOWN, "output_bytes"),
            (test_seconds, 0.1, "test_seconds"),
            (workspaces, 1, "workspaces"),
        )
        if not 0 <= test_share <= 1:
            msg = f"expected a test_share of 0 to 1, got {test_share!r}"
            raise TaskError(msg)
        super().__init__(_task_set(data, test_share), split=split, level=level, render_mode=render_mode)
        longest = max(MOST_STATEMENT, output_bytes) + MOST_AROUND
        self.observation_space = Text(longest)
        self.edits, self.partial_credit = edits, partial_credit
        self.steps, self.command_seconds, self.test_seconds = steps, command_seconds, test_seconds
        self._hand_in = None if hand_in is None else Path(hand_in).absolute()
        self._head_bytes = output_bytes - output_bytes // 2
        self._workspaces = _workspaces(backend, data, checkouts)
        self._grading_limits = replace(GRADING, wall_seconds=max(test_seconds, HISTORY_SECONDS))
        limits = replace(
            WORKSPACE,
            wall_seconds=max(command_seconds, HISTORY_SECONDS),
            pids=PIDS,
            disk_bytes=DISK_BYTES,
            output_bytes=output_bytes,
            tail_bytes=output_bytes // 2,
        )
        self.patch = b""
        """What the agent has changed, once the episode is graded: a git diff."""
        places = shared_places(workspaces, "workspaces of agents")
        self._adopt(AgentWorkspace(self._workspaces, places, limits))

    # ---- tasks

    def task_id(self, task: RepositoryTask) -> str:
        return task.instance_id

    # ---- the episode

    def begin(self, task: RepositoryTask) -> str:
        self._workspace.close()
        # Whether it can be played and graded at all is said at the start.
        self._workspaces.spec(task)
        exam_of(task)
        self._turns, self.patch = 0, b""
        return first_observation(
            task.problem_statement,
            workdir=WORKDIR,
            seconds=self.command_seconds,
            steps=self.steps,
            edits=self.edits,
        )

    def act(self, action: str) -> Turn:
        self._turns += 1
        reply = read_reply(action, edits=self.edits)
        if isinstance(reply, Misunderstood):
            return self._goes_on(reply.message)
        if self.is_lost:
            return self._ended()
        if isinstance(reply, Edit):
            self._workspace.open(self.task)
            return self._goes_on(edit_file(self._workspace, reply))
        result = self.run(reply.line)
        shown = output_shown(result, head_bytes=self._head_bytes, limit_seconds=self.command_seconds)
        if is_submission(result):
            return self._ended(submitted=True)
        return self._ended(f"{shown}\n") if self.is_lost else self._goes_on(shown)

    def run(self, line: str, environment: Mapping[str, str] = NO_MORE_VARIABLES) -> ExecResult:
        """Run a line of shell in the workspace, for who plays the episode otherwise than by replies.

        `environment`: variables beside those that the workspace has, and before them. SandboxError if the
        sandbox fails.
        """
        self._workspace.open(self.task)
        return self._workspace.run(line, self.command_seconds, environment)

    @property
    def is_lost(self) -> bool:
        """Has a program of the agent's made its workspace unusable? Then there is nothing left to play."""
        return self._workspace.is_lost

    def shared_by_forks(self) -> tuple[object, ...]:
        return *super().shared_by_forks(), self._workspaces

    # ---- the end of the episode

    def _ended(self, observation: str = "", *, submitted: bool = False) -> Turn:
        changes, found = self._grade()
        self._workspace.close()
        self.patch = changes.patch
        if self._hand_in is not None:
            return self._handed_in(observation, changes, found, submitted)
        verdict = found.verdict
        reward = float(found.resolved)
        score: dict[str, Any] = {"resolved": found.resolved, "cause": found.cause, "turns": self._turns}
        score["patch_bytes"] = len(changes.patch)
        if verdict is not None:
            passed = len(verdict.fail_to_pass.success), len(verdict.pass_to_pass.success)
            wanted = len(self.task.fail_to_pass), len(self.task.pass_to_pass)
            score["fail_to_pass"], score["pass_to_pass"] = (
                f"{n} of {of}" for n, of in zip(passed, wanted, strict=True)
            )
            if self.partial_credit and not (reward or found.cause or verdict.pass_to_pass.failure):
                reward = passed[0] / wanted[0]
        score["message"] = (found.message or changes.notes)[:MOST_MESSAGE]
        said = "The issue is solved." if found.resolved else "The issue is not solved."
        return Turn(observation=f"{observation}{said}", reward=reward, over=True, score=score)

    def _handed_in(self, observation: str, changes: Changes, found: Grade, submitted: bool) -> Turn:
        assert self._hand_in is not None
        message = (found.message or changes.notes)[:MOST_MESSAGE]
        write_hand_in(
            self._hand_in,
            self.task.instance_id,
            HandIn(
                patch="" if found.cause else changes.patch.decode("utf-8", "surrogateescape"),
                cause=found.cause,
                message=message,
                submitted=submitted,
                turns=self._turns,
            ),
        )
        score = {"cause": found.cause, "turns": self._turns, "patch_bytes": len(changes.patch)}
        said = "The files are handed in."
        return Turn(observation=f"{observation}{said}", over=True, score={**score, "message": message})

    def _grade(self) -> tuple[Changes, Grade]:
        """What the agent has changed, and what the tests say of it. The agent's workspace is closed.

        The tests are not asked where the patch is to be handed in.
        """
        nothing = Grade(cause="empty", message="the files are as they were")
        if self._workspace.is_lost:
            return Changes(), Grade(cause="workspace_lost", message="the agent has made it unusable")
        if not self._workspace.is_open:
            return Changes(), nothing
        with shared_places(default_size(), "workspaces for grading").take(self.test_seconds):
            clean = self._workspaces.open(self.task, self._grading_limits)
            try:
                changes = self._workspace.changes(clean)
                self._workspace.close()
                if changes.problem:
                    return changes, Grade(cause="not_taken", message=changes.problem)
                if not changes.patch:
                    return changes, nothing
                if self._hand_in is not None:
                    return changes, Grade()
                exam = exam_of(self.task)
                return changes, grade(clean, exam, changes.patch, wall_seconds=self.test_seconds)
            finally:
                clean.close()

    # ---- the expert

    def solution(self) -> str | None:
        """A command that applies the gold patch and submits. None if it is too long for one."""
        commands = gold_commands(self.task, then=f"echo {SUBMIT}")
        return written(commands[0]) if len(commands) == 1 else None

    def demonstrate(self) -> Iterator[str]:
        """The gold patch, in as many commands as it needs, then the submission."""
        for command in (*gold_commands(self.task), f"echo {SUBMIT}"):
            yield written(command)


def _check_at_least(*settings: tuple[float, float, str]) -> None:
    for value, least, name in settings:
        if not value >= least:
            msg = f"expected {name} of at least {least:g}, got {value!r}"
            raise TaskError(msg)


def _task_set(data: str | Path | None, test_share: float) -> RepositorySet:
    if data is None:
        return shared_out(sample_tasks(), test_share)
    try:
        return read_task_set(Path(data).absolute(), test_share)
    except OSError as error:
        msg = f"expected rows in {data}: {error}"
        raise DataError(msg) from error


def _workspaces(backend: Backend, data: str | Path | None, checkouts: str | Path | None) -> Workspaces:
    if data is not None or checkouts is not None:
        return workspaces_on(backend, Path(checkouts) if checkouts is not None else None)
    if backend not in ("auto", "bubblewrap"):
        msg = f"expected backend auto or bubblewrap for the tasks of the sample, got {backend!r}"
        raise TaskError(msg)
    return workspaces_on("auto", sample_checkouts())
