"""Write a small Python function from its description. Hidden tests run it in a sandbox.

One exec an episode: all tests at once, in a bare interpreter. A sandbox that fails raises SandboxError, and
the episode is broken; a program that fails scores 0.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass

from trieline.common.text import encodable
from trieline.envs.code import runner
from trieline.envs.code.asked_program import inside_source
from trieline.envs.code.cases import make_cases
from trieline.envs.code.extraction import extract_source
from trieline.envs.code.hidden_tests import Case, Report, judge
from trieline.envs.code.templates import LEVELS, TEMPLATES, Constant, Template
from trieline.envs.code.values import encode
from trieline.envs.sandbox import Backend, SandboxLimits, SandboxSpec, shared_pool
from trieline.envs.sandbox.backends import resolve_backend
from trieline.envs.text_env import ListedTextEnv, Split, Turn

PROMPT = "Write a one-line Python function {name}({params}) that returns {description}. Reply with code only."

SHOWN_LENGTH = 400
"""Characters of the program that `score` repeats."""
WALL_SECONDS = 4.0
LIMITS = SandboxLimits(
    wall_seconds=WALL_SECONDS, memory_bytes=256 * 1024 * 1024, pids=16, output_bytes=64 * 1024
)
SPEC = SandboxSpec()
"""A bare interpreter in an empty folder is all that a function needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FunctionTask:
    """A template with its constants chosen."""

    template: Template
    constants: tuple[tuple[str, Constant], ...]

    @property
    def params(self) -> str:
        return ", ".join(self.template.params)

    @property
    def description(self) -> str:
        return self.template.description.format_map(dict(self.constants))

    @property
    def gold(self) -> str:
        return self.template.gold.format_map(dict(self.constants))


class PythonFunction(ListedTextEnv[FunctionTask]):
    """Reward 1 if all hidden tests pass. Whole templates are held out for the test split.

    `backend` names the sandbox: `auto` (Docker if it answers, else bubblewrap), `docker`, `bubblewrap`, or
    `none`, which runs what the policy writes unprotected on this machine.
    """

    levels = LEVELS

    def __init__(
        self,
        *,
        split: Split = "train",
        level: int = 0,
        backend: Backend = "auto",
        render_mode: str | None = None,
    ) -> None:
        super().__init__(split=split, level=level, render_mode=render_mode)
        self.backend = backend

    def draw_task(self, level: int) -> FunctionTask:
        rows = [
            row for row in TEMPLATES.values() if row.level == level and row.held_out == (self.split == "test")
        ]
        template = rows[self.np_random.integers(len(rows))]
        chosen = {
            name: choices[self.np_random.integers(len(choices))]
            for name, choices in template.constants.items()
        }
        return FunctionTask(template=template, constants=tuple(chosen.items()))

    def all_tasks(self) -> Iterator[FunctionTask]:
        """Every template with all its constants, by level."""
        for template in sorted(TEMPLATES.values(), key=lambda row: row.level):
            choices = [list[Constant](values) for values in template.constants.values()]
            for chosen in itertools.product(*choices):
                constants = tuple(zip(template.constants, chosen, strict=True))
                yield FunctionTask(template=template, constants=constants)

    def in_test(self, task: FunctionTask) -> bool:
        return task.template.held_out

    def task_id(self, task: FunctionTask) -> str:
        constants = ",".join(f"{name}={value}" for name, value in task.constants)
        return f"{task.template.name}:{constants}" if constants else task.template.name

    def parse_task(self, task_id: str) -> FunctionTask:
        name, _, rest = task_id.partition(":")
        template = TEMPLATES.get(name)
        if template is None:
            msg = (
                f"expected one of {len(TEMPLATES)} templates such as {next(iter(TEMPLATES))!r}, got {name!r}"
            )
            raise ValueError(msg)
        given = dict(part.split("=", 1) for part in rest.split(",")) if rest else {}
        if list(given) != list(template.constants):
            msg = f"expected the constants {list(template.constants)}, got {list(given)}"
            raise ValueError(msg)
        known = {
            key: {str(choice): choice for choice in choices} for key, choices in template.constants.items()
        }
        if wrong := [f"{key}={text}" for key, text in given.items() if text not in known[key]]:
            msg = f"expected constants within their ranges, got {wrong}"
            raise ValueError(msg)
        return FunctionTask(
            template=template, constants=tuple((key, known[key][text]) for key, text in given.items())
        )

    def begin(self, task: FunctionTask) -> str:
        # Whether there is a sandbox at all is said at the start, not after the first answer.
        resolve_backend(self.backend)
        self.cases = cases_of(task, self.task_id(task))
        return PROMPT.format(name=runner.NAME, params=task.params, description=task.description)

    def act(self, action: str) -> Turn:
        source = extract_source(action, self.task.params)
        report = run_tests(source, self.cases, backend=self.backend)
        passed = report.passed == report.total
        score = {
            "passed": report.passed,
            "total": report.total,
            "error": report.error,
            "source": _printable(source),
        }
        observation = "All tests passed." if passed else f"{report.passed} of {report.total} tests passed."
        return Turn(observation=observation, reward=float(passed), over=True, score=score)

    def solution(self) -> str:
        return f"def {runner.NAME}({self.task.params}): return {self.task.gold}"

    def demonstrate(self) -> Iterator[str]:
        yield self.solution()


def cases_of(task: FunctionTask, task_id: str) -> tuple[Case, ...]:
    """The hidden tests: the same ones for a task for ever."""
    # Our own expression, from the table of templates; nothing in it comes from outside.
    gold = eval(f"lambda {task.params}: {task.gold}")
    return make_cases(gold, task.template.params, dict(task.constants), task_id)


def run_tests(source: str, cases: tuple[Case, ...], *, backend: Backend = "auto") -> Report:
    """Run a function on the inputs of the cases in a sandbox and compare here. SandboxError if that fails."""
    calls = [encode((case.arguments, {})) for case in cases]
    request = {"name": runner.NAME, "source": source, "calls": calls}
    stdin = json.dumps(request).encode()
    with shared_pool(backend, LIMITS, SPEC).lend() as sandbox:
        result = sandbox.exec(["python3", "-I", "-S", "-c", inside_source(runner)], stdin=stdin)
    return judge(cases, result)


def _printable(source: str) -> str:
    """For people to look at; lone surrogates can't be written anywhere."""
    return encodable(source, SHOWN_LENGTH)
