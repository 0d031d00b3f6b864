"""Mend a function that has one wrong line. Hidden tests run it in a sandbox.

The small end of repairing repositories: the code is there, a call that goes wrong is shown, and what counts
is whether all tests pass. One exec an attempt. A sandbox that fails raises SandboxError, and the episode is
broken; a program that fails costs an attempt.
"""

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from trieline.common.text import encodable
from trieline.envs.code import runner
from trieline.envs.code.cases import make_cases
from trieline.envs.code.extraction import DEFINITION, FENCE, READ_LENGTH, definition_block
from trieline.envs.code.faults import wrong_versions
from trieline.envs.code.files import FILES
from trieline.envs.code.hidden_tests import Case, make_case, same
from trieline.envs.code.loops import LOOPS
from trieline.envs.code.program import Program
from trieline.envs.code.python_function import SHOWN_LENGTH, run_tests
from trieline.envs.code.templates import TEMPLATES, Constant
from trieline.envs.errors import TaskError
from trieline.envs.sandbox import Backend
from trieline.envs.sandbox.backends import resolve_backend
from trieline.envs.text_env import Split, TextEnv, Turn

ATTEMPTS = 3
MAX_ATTEMPTS = 100
FAULT_DRAWS = 100
"""Faults to try until one makes the function wrong."""
LEAST_LIKENESS = 0.4
"""Of a line of a reply to the line that it replaces."""
MAX_LINES = 50
"""Of a reply that are compared with those of the file."""
MAX_LINE = 200
"""Characters of such a line."""


def _one_liner(level: int) -> tuple[Program, ...]:
    return tuple(
        Program(
            name=row.name,
            params=row.params,
            description=row.description,
            source=f"def {runner.NAME}({', '.join(row.params)}):\n    return {row.gold}",
            constants=row.constants,
            held_out=row.held_out,
        )
        for row in TEMPLATES.values()
        if row.level == level
    )


LEVELS: tuple[tuple[Program, ...], ...] = (_one_liner(0), (*_one_liner(1), *_one_liner(2)), LOOPS, FILES)
PROGRAMS = {program.name: program for programs in LEVELS for program in programs}
LINE_LEVELS = 2
"""Below this level a task asks for the corrected line, from it on for the corrected function."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """A program with its constants chosen, and one fault."""

    program: Program
    constants: tuple[tuple[str, Constant], ...]
    fault: int
    """Its place in `wrong_versions`."""

    @property
    def right(self) -> str:
        return self.program.source.format_map(dict(self.constants))

    @property
    def wrong(self) -> str:
        return _versions(self.program.source.format_map(dict(self.constants)))[self.fault]

    @property
    def description(self) -> str:
        return self.program.description.format_map(dict(self.constants))


class Repair(TextEnv[Broken]):
    """Reward 1 if all hidden tests pass within `attempts`. Whole functions are held out for the test split.

    Levels: 0 and 1, one line from one step to three; 2, a function with a loop; 3, a file of several
    functions. An answer is a line, which takes the place of the one that it resembles most, or whole
    functions, which take the place of those of their names. `backend` names the sandbox, as in
    PythonFunction.
    """

    levels = len(LEVELS)

    def __init__(
        self,
        *,
        split: Split = "train",
        level: int = 0,
        attempts: int = ATTEMPTS,
        backend: Backend = "auto",
        render_mode: str | None = None,
    ) -> None:
        super().__init__(split=split, level=level, render_mode=render_mode)
        if not 1 <= attempts <= MAX_ATTEMPTS:
            msg = f"expected attempts in 1..{MAX_ATTEMPTS}, got {attempts}"
            raise TaskError(msg)
        self.attempts = attempts
        self.backend = backend

    def draw_task(self, level: int) -> Broken:
        rows = [row for row in LEVELS[level] if row.held_out == (self.split == "test")]
        for _ in range(FAULT_DRAWS):
            program = rows[self.np_random.integers(len(rows))]
            constants = tuple(
                (name, choices[self.np_random.integers(len(choices))])
                for name, choices in program.constants.items()
            )
            versions = _versions(program.source.format_map(dict(constants)))
            if not versions:
                continue
            task = Broken(
                program=program, constants=constants, fault=int(self.np_random.integers(len(versions)))
            )
            if _failing(task):
                return task
        msg = f"no fault that makes a function wrong in {FAULT_DRAWS} draws of level {level}"
        raise TaskError(msg)

    def in_test(self, task: Broken) -> bool:
        return task.program.held_out

    def task_id(self, task: Broken) -> str:
        constants = ",".join(f"{name}={value}" for name, value in task.constants)
        return f"{task.program.name}:{constants}/{task.fault}"

    def parse_task(self, task_id: str) -> Broken:
        match = re.fullmatch(r"(\w{1,100}):([^/]{0,200})/(\d{1,4})", task_id, re.ASCII)
        program = PROGRAMS.get(match[1]) if match else None
        if match is None or program is None:
            msg = f"expected 'function:constants/fault' with one of {len(PROGRAMS)} functions"
            raise ValueError(msg)
        given = dict(part.partition("=")[::2] for part in match[2].split(",")) if match[2] else {}
        known = {name: {str(c): c for c in choices} for name, choices in program.constants.items()}
        if list(given) != list(known) or any(text not in known[name] for name, text in given.items()):
            msg = f"expected the constants {list(known)} within their ranges, got {match[2]!r}"
            raise ValueError(msg)
        constants = tuple((name, known[name][text]) for name, text in given.items())
        number = len(_versions(program.source.format_map(dict(constants))))
        if int(match[3]) >= number:
            msg = f"expected a fault below {number}, got {match[3]}"
            raise ValueError(msg)
        task = Broken(program=program, constants=constants, fault=int(match[3]))
        if not _failing(task):
            msg = f"expected a fault that makes the function wrong, got {match[3]}, which does not"
            raise ValueError(msg)
        return task

    def begin(self, task: Broken) -> str:
        # Whether there is a sandbox at all is said at the start, not after the first answer.
        resolve_backend(self.backend)
        self.cases = _cases(task)
        self.used = 0
        case, outcome = _failing(task)[0]
        return (
            f"{task.wrong}\n\nThis should return {task.description}, but {_call(case)} {outcome}, "
            f"not {_shown(case)}. {self._ask(task)}"
        )

    def act(self, action: str) -> Turn:
        self.used += 1
        source = mended(action, self.task.wrong)
        report = run_tests(source, self.cases, backend=self.backend)
        passed = report.passed == report.total
        if not passed and self.used < self.attempts:
            case = self.cases[report.first_failed]
            observation = f"{_call(case)} is not {_shown(case)} yet. {self._ask(self.task)}"
            return Turn(observation=observation)
        score = {
            "passed": report.passed,
            "total": report.total,
            "error": report.error,
            "attempts": self.used,
            "source": encodable(source, SHOWN_LENGTH),
        }
        observation = "All tests passed." if passed else f"{report.passed} of {report.total} tests passed."
        return Turn(observation=observation, reward=float(passed), over=True, score=score)

    def solution(self) -> str:
        line = _new_line(self.task.wrong, self.task.right)
        return line if mended(line, self.task.wrong) == self.task.right else self.task.right

    def demonstrate(self) -> Iterator[str]:
        yield self.solution()

    def shared_by_forks(self) -> tuple[object, ...]:
        # A program is known by being the one of its table: a copy would be of no level.
        return *super().shared_by_forks(), self._task

    def _ask(self, task: Broken) -> str:
        by_line = any(task.program in programs for programs in LEVELS[:LINE_LEVELS])
        return f"Reply with the corrected {'line' if by_line else 'function'} only."


def mended(reply: str, wrong: str) -> str:
    """`wrong` with what the reply says put into it. Nothing of a reply is parsed by Python here."""
    text = reply[:READ_LENGTH]
    if fence := FENCE.search(text):
        text = fence[1]
    if definitions := [definition_block(text[match.start() :]) for match in DEFINITION.finditer(text)]:
        return _with_functions(definitions, wrong)
    return _with_line(text, wrong)


def _with_functions(definitions: list[str], wrong: str) -> str:
    """Functions in the place of those of their names; without such, the last one is the answer."""
    blocks = {_name(block): block for block in wrong.split("\n\n")}
    given = {_name(block): block for block in definitions}
    if not given.keys() & blocks.keys():
        return definitions[-1]
    return "\n\n".join(given.get(name, block) for name, block in blocks.items())


def _name(block: str) -> str:
    match = re.search(r"def\s+(\w+)", block)
    return match[1] if match else ""


def _with_line(text: str, wrong: str) -> str:
    """The line of the reply that resembles one of the file most, without being one, in the place of that."""
    lines = wrong.split("\n")
    there = {line.strip() for line in lines}
    best = (LEAST_LIKENESS, 0, "")
    for said in text.split("\n")[:MAX_LINES]:
        said = said.strip().strip("`").strip()[:MAX_LINE]
        if not said or said in there:
            continue
        for place, line in enumerate(lines):
            likeness = difflib.SequenceMatcher(None, said, line.strip(), autojunk=False).ratio()
            if likeness > best[0]:
                best = (likeness, place, said)
    _, place, said = best
    if not said:
        return wrong
    indentation = lines[place][: len(lines[place]) - len(lines[place].lstrip())]
    return "\n".join([*lines[:place], indentation + said, *lines[place + 1 :]])


def _new_line(wrong: str, right: str) -> str:
    """The line of the right version that the wrong one has another in the place of."""
    pairs = zip(wrong.split("\n"), right.split("\n"), strict=True)
    return next(line.strip() for other, line in pairs if line != other)


@lru_cache(maxsize=4096)
def _versions(source: str) -> tuple[str, ...]:
    return wrong_versions(source)


@lru_cache(maxsize=256)
def _cases(task: Broken) -> tuple[Case, ...]:
    """The same ones for all faults of a function."""
    constants = dict(task.constants)
    return make_cases(
        _function(task.right), task.program.params, constants, f"{task.program.name}:{task.constants}"
    )


def _function(source: str) -> Any:
    """`f` of a source of ours, right or wrong; nothing in it comes from outside."""
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    return namespace[runner.NAME]


@lru_cache(maxsize=256)
def _failing(task: Broken) -> tuple[tuple[Case, str], ...]:
    """The cases that the wrong version fails, the shortest first, and what it does with each."""
    function = _function(task.wrong)
    found = []
    for case in _cases(task):
        try:
            value = make_case(case.arguments, function(*case.arguments)).expected
        except Exception as error:  # noqa: BLE001 - whatever the fault leads to
            found.append((case, f"raises {type(error).__name__}"))
            continue
        if not same(case.expected, value):
            found.append((case, f"is {_plain_value(value)}"))
    return tuple(sorted(found, key=lambda one: len(json.dumps(one[0].arguments))))


def _call(case: Case) -> str:
    return f"{runner.NAME}({', '.join(map(repr, case.arguments))})"


def _shown(case: Case) -> str:
    return _plain_value(case.expected)


def _plain_value(encoded: Any) -> str:
    """A value as Python writes it, out of what `values.encode` made of it."""
    if not isinstance(encoded, list):
        return repr(encoded)
    kind, *items = encoded
    inside = ", ".join(_plain_value(item) for item in items)
    forms = {"list": "[{}]", "tuple": "({})", "set": "{{{}}}"}
    return forms[kind].format(inside) if kind in forms else f"a {items[0] if kind == 'other' else kind}"
