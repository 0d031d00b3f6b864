"""Functions out of published data sets, judged by their own tests: HumanEval and MBPP."""

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from trieline.common.text import encodable
from trieline.envs.code.asked_program import AskingTests, calls_of, run_tests
from trieline.envs.code.extraction import completed_source
from trieline.envs.datasets.dataset_env import MOST_QUESTION, DatasetEnv
from trieline.envs.datasets.records import said
from trieline.envs.datasets.rows import Row
from trieline.envs.datasets.task_set import Difficulty
from trieline.envs.errors import DataError
from trieline.envs.sandbox import Backend
from trieline.envs.sandbox.backends import resolve_backend
from trieline.envs.text_env import Turn

SHOWN_LENGTH = 400
MOST_TESTS = 1_000
_NAME = re.compile(r"[A-Za-z_]\w{0,99}", re.ASCII)
_DEFINED = re.compile(r"^(?:async[ \t]+)?def[ \t]+(\w+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class FunctionRow:
    """A function to write."""

    prompt: str
    """What is asked, as it stands in the data."""
    start: str
    """Source that the answer goes on with, or may leave out."""
    gold: str
    """A whole right program."""
    tests: AskingTests
    named: str | None
    difficulty: Difficulty | None

    @property
    def key(self) -> str:
        return self.prompt

    @property
    def identity(self) -> str:
        return "\n".join(self.tests.tests)


class Completion(DatasetEnv[FunctionRow]):
    """Reward 1 if all tests of the row pass. The program never shares a process with them (`asked_program`).

    Args, beside those of every data set:
        backend: the sandbox, as in PythonFunction.
    """

    field = "prompt"

    def __init__(self, *, backend: Backend = "auto", **settings: Any) -> None:
        super().__init__(**settings)
        self.backend = backend

    @classmethod
    @abstractmethod
    def task_of(cls, row: Row) -> FunctionRow: ...

    def begin(self, task: FunctionRow) -> str:
        resolve_backend(self.backend)
        # Whether its own solution passes is known before anything is counted against an agent.
        calls_of(task.tests, self.backend)
        return self.asked(task.prompt.strip("\n"))

    def act(self, action: str) -> Turn:
        source = completed_source(action, self.task.start, self.task.tests.name)
        outcome = run_tests(source, self.task.tests, backend=self.backend)
        passed = outcome.passed == outcome.total
        score = {
            "passed": outcome.passed,
            "total": outcome.total,
            "error": outcome.error,
            "source": encodable(source, SHOWN_LENGTH),
        }
        observation = "All tests passed." if passed else f"{outcome.passed} of {outcome.total} tests passed."
        return Turn(observation=observation, reward=float(passed), over=True, score=score)

    def solution(self) -> str:
        return f"```python\n{self.task.gold}\n```"

    def demonstrate(self) -> Iterator[str]:
        yield self.solution()


class HumanEval(Completion):
    """Functions to complete from signature and docstring (Chen et al. 2021), in the published columns."""

    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "prompt": ("prompt",),
        "name": ("entry_point",),
        "solution": ("canonical_solution",),
        "test": ("test",),
        "id": ("task_id",),
        "level": ("level",),
    }
    sample = ("trieline.envs.code.samples", "humaneval")
    default_prompt = "Complete this Python function. Reply with code only.\n\n```python\n{prompt}\n```"

    @classmethod
    def task_of(cls, row: Row) -> FunctionRow:
        prompt, name = _prompt_text(row), row.text("name")
        if not _NAME.fullmatch(name) or not re.search(rf"^def[ \t]+{name}\b", prompt, re.MULTILINE):
            msg = f"name: expected the name of a function that the prompt begins, got {said(name)}"
            raise DataError(msg)
        gold = f"{prompt}{row.text('solution')}".rstrip()
        setup = f"{gold}\n\n{row.text('test')}"
        return FunctionRow(
            prompt=prompt,
            start=prompt,
            gold=gold,
            tests=AskingTests(name=name, setup=setup, tests=("check(candidate)",)),
            named=row.optional_text("id"),
            difficulty=row.difficulty(),
        )


class MBPP(Completion):
    """Small functions from a sentence (Austin et al. 2021), in the columns of the full or the sanitized set.

    The first test is shown, so that the name and the kind of arguments are known; all of them count.
    """

    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "prompt": ("text", "prompt"),
        "solution": ("code",),
        "tests": ("test_list",),
        "more_tests": ("challenge_test_list",),
        "setup": ("test_setup_code", "test_imports"),
        "id": ("task_id",),
        "level": ("level",),
    }
    sample = ("trieline.envs.code.samples", "mbpp")
    default_prompt = "{prompt} Reply with Python code only."

    @classmethod
    def task_of(cls, row: Row) -> FunctionRow:
        gold = row.text("solution").replace("\r\n", "\n").strip()
        tests = (*_texts(row, "tests"), *_texts(row, "more_tests"))
        if not tests:
            msg = "tests: expected a list of assertions in the column test_list, got none"
            raise DataError(msg)
        name = _tested_name(gold, tests)
        prompt = f"{_prompt_text(row).strip()} Your code should pass this test: {tests[0].strip()}"
        setup = "\n".join([gold, *_texts(row, "setup")])
        return FunctionRow(
            prompt=prompt,
            start="",
            gold=gold,
            tests=AskingTests(name=name, setup=setup, tests=tests),
            named=row.optional_text("id"),
            difficulty=row.difficulty(),
        )


def _prompt_text(row: Row) -> str:
    text = row.text("prompt").replace("\r\n", "\n")
    if len(text) > MOST_QUESTION:
        msg = f"prompt: expected at most {MOST_QUESTION:,} characters, got {len(text):,}"
        raise DataError(msg)
    return text


def _texts(row: Row, name: str) -> tuple[str, ...]:
    return tuple(text.replace("\r\n", "\n") for text in row.texts(name, MOST_TESTS))


def _tested_name(gold: str, tests: tuple[str, ...]) -> str:
    """The function of the solution that the tests are about."""
    defined = _DEFINED.findall(gold)
    called = [name for name in defined if any(re.search(rf"\b{name}\b", test) for test in tests)]
    if not called:
        msg = (
            f"tests: expected calls of a function of the solution ({', '.join(defined) or 'none'}), got none"
        )
        raise DataError(msg)
    return str(called[-1])
