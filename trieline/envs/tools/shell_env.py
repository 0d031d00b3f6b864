"""`trieline/Shell-v0`: a task in words, a shell in a small sandbox, and a script that decides.

An episode is a chat with a shell, one command a turn, in the protocol of `trieline/SWE-v0`. The check comes
into a clean sandbox once the agent is done, with the agent's files and nothing else of it (`shell_check`). A
sandbox that fails raises SandboxError, and the episode is broken; what the agent brings about is its result.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from trieline.envs.datasets.dataset_env import MOST_QUESTION, DatasetEnv
from trieline.envs.datasets.rows import Row
from trieline.envs.errors import TaskError
from trieline.envs.sandbox import Backend, shared_places
from trieline.envs.sandbox.archives import new_spool
from trieline.envs.sandbox.backends import resolve_backend
from trieline.envs.swe.observations import MOST_AROUND, SUBMIT, is_submission, output_shown
from trieline.envs.swe.replies import Command, Misunderstood, read_reply, written
from trieline.envs.swe.shell_episode import ShellEpisode
from trieline.envs.text_env import Turn
from trieline.envs.text_space import Text
from trieline.envs.tools.shell_check import AGENT, Verdict, shown, verdict_of
from trieline.envs.tools.shell_task import ShellTask, task_of
from trieline.envs.tools.shell_workspace import MOST_WORKSPACES, ShellWorkspace

MOST_STEPS = 1_000
MOST_SECONDS = 600.0
OUTPUT_BYTES = (200, 100_000)


class Shell(ShellEpisode[ShellTask], DatasetEnv[ShellTask]):
    """Reward 1 if the check exits with 0 in the folder that the agent leaves, else 0.

    Where the last line that it prints is `score=` and a number of 0 to 1, that is the reward instead, as long
    as it exits with 0.

    Columns: `task` (in words), `files` (an object of paths and texts), `check` (a script for bash, or for
    Python where its first line is a `#!` that names it), `solution` (lines of shell), `id`, `level`.

    Args, beside those of every data set:
        steps: replies, after which the files are checked as they are.
        command_seconds: for one command.
        check_seconds: for the check.
        output_bytes: shown of a command's output, half of them its head and half its tail.
        bare_levels: below this level a reply of one line without a block is a command, too.
        workspaces: of agents, open at once in this process.
        backend: the sandbox: `auto`, `docker`, `bubblewrap`.
    """

    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "task": ("task", "instruction", "question", "prompt"),
        "files": ("files",),
        "check": ("check",),
        "solution": ("solution",),
        "id": ("id", "task_id", "name"),
        "level": ("level", "difficulty"),
    }
    sample = ("trieline.envs.tools.samples", "shell")
    field: ClassVar[str] = "task"
    _workspace: ShellWorkspace
    default_prompt: ClassVar[str] = (
        "{task}\n\nYou have a shell in the folder of the task. Each of your replies has one block with a "
        "command for bash:\n\n```bash\nls -la\n```\n\nYou are shown its return code and its output. Every "
        "command runs in a new shell in that folder, for at most {seconds} s; what it changes in files "
        "stays.\n\nWhen the task is done, reply with this:\n\n```bash\necho {submit}\n```\n\nThe files are "
        "checked as they are then, or after {steps} replies."
    )

    def __init__(
        self,
        *,
        steps: int = 10,
        command_seconds: float = 10.0,
        check_seconds: float = 10.0,
        output_bytes: int = 4_000,
        bare_levels: int = 1,
        workspaces: int = 64,
        backend: Backend = "auto",
        **settings: Any,
    ) -> None:
        for value, (least, most), name in (
            (steps, (1, MOST_STEPS), "steps"),
            (command_seconds, (0.1, MOST_SECONDS), "command_seconds"),
            (check_seconds, (0.1, MOST_SECONDS), "check_seconds"),
            (output_bytes, OUTPUT_BYTES, "output_bytes"),
            (workspaces, (1, MOST_WORKSPACES), "workspaces"),
        ):
            if not least <= value <= most:
                msg = f"expected {name} of {least:g} to {most:g}, got {value!r}"
                raise TaskError(msg)
        super().__init__(**settings)
        self.steps, self.command_seconds, self.check_seconds = steps, command_seconds, check_seconds
        self.bare_levels, self.backend = bare_levels, backend
        for name, said in (("steps", f"{steps}"), ("seconds", f"{command_seconds:g}"), ("submit", SUBMIT)):
            self._prompt = self._prompt.replace(f"{{{name}}}", said)
        self.observation_space = Text(max(MOST_QUESTION + len(self._prompt), output_bytes + MOST_AROUND))
        self._head_bytes = output_bytes - output_bytes // 2
        limits = replace(
            AGENT, wall_seconds=command_seconds, output_bytes=output_bytes, tail_bytes=output_bytes // 2
        )
        places = shared_places(workspaces, "shells of agents")
        self._adopt(ShellWorkspace(backend, places, limits))

    @classmethod
    def task_of(cls, row: Row) -> ShellTask:
        return task_of(row)

    # ---- the episode

    def begin(self, task: ShellTask) -> str:
        self._workspace.close()
        resolve_backend(self.backend)
        self._turns = 0
        self._bare = self._level_of(task) < self.bare_levels
        return self.asked(task.task.strip("\n"))

    def act(self, action: str) -> Turn:
        self._turns += 1
        reply = read_reply(action, edits=False, bare=self._bare)
        if isinstance(reply, Misunderstood):
            return self._goes_on(reply.message)
        if self._workspace.is_lost:
            return self._ended()
        assert isinstance(reply, Command), "edits were not asked for"
        self._workspace.open(self.task)
        result = self._workspace.run(reply.line, self.command_seconds)
        if is_submission(result):
            return self._ended()
        said = output_shown(result, head_bytes=self._head_bytes, limit_seconds=self.command_seconds)
        return self._ended(f"{said}\n") if self._workspace.is_lost else self._goes_on(said)

    def _level_of(self, task: ShellTask) -> int:
        for levels in self._set.by_level.values():
            for level, tasks in enumerate(levels):
                if any(task is one for one in tasks):
                    return level
        raise AssertionError(task.named)

    # ---- the end of the episode

    def _ended(self, observation: str = "") -> Turn:
        verdict = self._verdict()
        self._workspace.close()
        score = {
            "passed": verdict.reward == 1,
            "reason": verdict.reason,
            "turns": self._turns,
            "message": verdict.message,
        }
        said = "The task is done." if verdict.reward == 1 else "The task is not done."
        return Turn(observation=f"{observation}{said}", reward=verdict.reward, over=True, score=score)

    def _verdict(self) -> Verdict:
        if self._workspace.is_lost:
            return Verdict(reason="workspace_lost", message="the agent has made it unusable")
        if not self._workspace.is_open:
            return Verdict(reason="untouched", message="no command was run")
        with new_spool() as files:
            try:
                self._workspace.take_files(files)
            except OSError as error:
                return Verdict(reason="not_taken", message=shown(str(error)))
            self._workspace.close()
            return verdict_of(self.task, files, backend=self.backend, seconds=self.check_seconds)

    # ---- the expert

    def solution(self) -> str | None:
        """The commands of the solution, and the submission. What they print is thrown away."""
        if self.task.solution is None:
            return None
        return written(f"{{\n{self.task.solution}\n}} > /dev/null 2>&1\necho {SUBMIT}")

    def demonstrate(self) -> Iterator[str]:
        """The solution, then the submission."""
        if self.task.solution is not None:
            yield written(self.task.solution)
            yield written(f"echo {SUBMIT}")
