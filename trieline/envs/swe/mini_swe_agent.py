"""A repository task as an environment of mini-swe-agent: its agent runs as it is, in our workspace.

    environment:
      environment_class: trieline.envs.swe.mini_swe_agent.TrielineEnvironment
      data: rows.jsonl
      checkouts: checkouts
    run:
      env_startup_command: "{{instance_id}}"

It speaks the protocol of mini-swe-agent 2 (`Environment` in minisweagent/__init__.py), a package that need
not be there until an agent submits. The workspace, its limits and its grading are those of `trieline/SWE-v0`:
no tests, no history, and the files are graded as they are when the agent submits. `submission` is the patch
that was taken of them, whatever the agent printed, so a file of predictions holds what was graded.
"""

import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from trieline.envs.errors import TaskError
from trieline.envs.sandbox import ExecResult
from trieline.envs.swe.observations import is_submission, why_ended
from trieline.envs.swe.replies import problem_of_command
from trieline.envs.swe.repository_env import RepositoryEnv
from trieline.envs.swe.repository_task import WORKDIR

INTERPRETER = ("bash", "-c")
OUTPUT_BYTES = 2**20
"""Of a command, half of them its head and half its tail: templates of mini-swe-agent shorten it further."""
NOT_RUN = -1
"""The return code of what was no command, as in mini-swe-agent's own environments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrielineEnvironmentConfig:
    """What the templates of an agent may name, beside `platform.uname()`."""

    instance_id: str = ""
    """Of the task. Empty: the first command is the id, which is how a runner of many tasks says it
    (`run.env_startup_command`)."""
    cwd: str = WORKDIR
    """Where commands start."""
    timeout: float = 60.0
    """Seconds for one command."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables of all commands."""
    interpreter: Sequence[str] = INTERPRETER
    """That very one."""
    output_bytes: int = OUTPUT_BYTES


class TrielineEnvironment:
    """One task, from the first command to its reward.

    Args:
        settings: fields of `TrielineEnvironmentConfig`, which mini-swe-agent's own configurations set, too;
            all others are those of `RepositoryEnv`: `data`, `checkouts`, `backend`, `test_seconds`, ...

    Raises:
        TaskError: a setting, or the instance id, is none.
        DataError: there are no rows.
        SandboxError: this machine has no such backend.
    """

    def __init__(self, **settings: Any) -> None:
        names = {setting.name for setting in fields(TrielineEnvironmentConfig)} & settings.keys()
        own = {name: settings.pop(name) for name in names}
        self.config = TrielineEnvironmentConfig(**own)
        if tuple(self.config.interpreter) != INTERPRETER:
            msg = f"expected {list(INTERPRETER)} as interpreter, got {self.config.interpreter!r}"
            raise TaskError(msg)
        self._commands = 0
        self._result: tuple[float, dict[str, Any]] | None = None
        self._env = RepositoryEnv(
            command_seconds=self.config.timeout, output_bytes=self.config.output_bytes, **settings
        )
        self._is_begun = bool(self.config.instance_id)
        if self._is_begun:
            self._env.reset(options={"task_id": self.config.instance_id})

    @property
    def statement(self) -> str:
        """Of the task, for `agent.run`."""
        return self._env.task.problem_statement

    def execute(self, action: Mapping[str, Any], cwd: str = "") -> dict[str, Any]:
        """Run `action["command"]`; its output, return code and what else is to be said.

        Raises:
            Submitted: of mini-swe-agent; the files were graded, and `extra` has patch, reward and score.
            SandboxError: the sandbox failed. This is not the agent's doing.
        """
        if self._result is not None:
            msg = f"{self._env.task.instance_id}: expected no command after the grading, got one"
            raise TaskError(msg)
        command = str(action.get("command", ""))
        if not self._is_begun:
            return self._begin(command)
        self._commands += 1
        if problem := problem_of_command(command):
            return {"output": "", "returncode": NOT_RUN, "exception_info": problem}
        if (place := cwd or self.config.cwd) != WORKDIR:
            command = f"cd {shlex.quote(place)} || exit\n{command}"
        result = self._env.run(command, self.config.env)
        if is_submission(result):
            self._submit(result.stdout.lstrip().partition(b"\n")[2].decode("utf-8", "replace"))
        if self._env.is_lost:
            self._submit("")
        return {
            "output": _output(result, head_bytes=self.config.output_bytes - self.config.output_bytes // 2),
            "returncode": result.exit_code,
            "exception_info": " ".join(why_ended(result, self.config.timeout)),
        }

    def finish(self) -> tuple[float, dict[str, Any]]:
        """Reward and score of the files as they are, also where no limit let the agent submit. Graded once.

        SandboxError if the sandbox fails.
        """
        if self._result is None:
            reward, info = self._env.finish()
            self._result = reward, {**info["score"], "turns": self._commands}
        return self._result

    @property
    def patch(self) -> str:
        """What the agent has changed, once it is graded. A byte that is not UTF-8 is a lone surrogate."""
        return self._env.patch.decode("utf-8", "surrogateescape")

    def get_template_vars(self, **kwargs: Any) -> dict[str, Any]:
        """What the templates of an agent may name."""
        return {**asdict(self.config), **platform.uname()._asdict(), **kwargs}

    def serialize(self) -> dict[str, Any]:
        """For the file of the trajectory."""
        kind = type(self)
        config = {
            "environment": asdict(self.config),
            "environment_type": f"{kind.__module__}.{kind.__name__}",
        }
        info: dict[str, Any] = {"config": config}
        if self._result is not None:
            info["reward"], info["score"] = self._result
        return {"info": info}

    def close(self) -> None:
        """End the workspace. Idempotent; who drops the environment does the same."""
        self._env.close()

    def _begin(self, instance_id: str) -> dict[str, Any]:
        try:
            self._env.reset(options={"task_id": instance_id.strip()})
        except TaskError as error:
            msg = (
                "expected an instance_id in the settings, or as the first command (run.env_startup_command = "
                f"'{{{{instance_id}}}}'): {error}"
            )
            raise TaskError(msg) from error
        self._is_begun = True
        return {"output": "", "returncode": 0, "exception_info": ""}

    def _submit(self, said: str) -> None:
        from minisweagent.exceptions import Submitted

        reward, score = self.finish()
        extra = {"submission": self.patch, "reward": reward, "score": score}
        raise Submitted({"role": "exit", "content": said, "extra": {"exit_status": "Submitted", **extra}})


def _output(result: ExecResult, *, head_bytes: int) -> str:
    output = result.stdout + result.stderr
    if result.stdout_left_out:
        note = f"\n[{result.stdout_left_out:,} bytes are left out here]\n".encode()
        output = result.stdout[:head_bytes] + note + result.stdout[head_bytes:]
    return output.decode("utf-8", "replace")
