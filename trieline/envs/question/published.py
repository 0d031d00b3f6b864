"""Published sets of questions, in the columns in which they are published."""

from collections.abc import Mapping
from typing import ClassVar

from trieline.envs.datasets.rows import Row
from trieline.envs.datasets.task_set import Difficulty
from trieline.envs.errors import DataError
from trieline.envs.question.questions import Questions

FEW_STEPS, SOME_STEPS = 2, 4
"""Lines of a worked solution at the first level and at the second."""


class GSM8K(Questions):
    """Grade-school mathematics (Cobbe et al. 2021): `question`, `answer` with the number behind `####`.

    Levels are by the lines of the gold solution: up to 2, up to 4, more.
    """

    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "question": ("question",),
        "answer": ("answer",),
        "id": ("id",),
        "level": ("level",),
    }
    sample = ("trieline.envs.question.samples", "gsm8k")
    default_prompt = (
        "{question}\n\nThink step by step. End with the answer, a number alone, on a line that begins with "
        "####."
    )

    @classmethod
    def gold_of(cls, row: Row) -> tuple[str, ...]:
        if "####" not in row.text("answer"):
            msg = "answer: expected a solution that ends with #### and a number, got one without ####"
            raise DataError(msg)
        return super().gold_of(row)

    @classmethod
    def difficulty_of(cls, row: Row) -> Difficulty | None:
        given = super().difficulty_of(row)
        if given is not None:
            return given
        steps = sum(bool(line) and "####" not in line for line in row.text("answer").splitlines())
        return float((steps > FEW_STEPS) + (steps > SOME_STEPS))


class MATH(Questions):
    """Competition mathematics (Hendrycks et al. 2021): `problem`, `solution` with a box, `level`.

    Rows of MATH-500 with an `answer` of their own are taken as well. Levels are the published ones.
    """

    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "question": ("problem", "question"),
        "answer": ("answer", "solution"),
        "id": ("unique_id", "id"),
        "level": ("level",),
    }
    sample = ("trieline.envs.question.samples", "math")
    default_prompt = "{question}\n\nThink step by step, and put the final answer within \\boxed{}."

    @classmethod
    def difficulty_of(cls, row: Row) -> Difficulty | None:
        given = super().difficulty_of(row)
        return f"Level {given:g}" if isinstance(given, float) else given


class AIME(Questions):
    """The American Invitational Mathematics Examination: integers from 0 to 999.

    Columns as in the collections of it that are shared: `problem` or `Problem`, `answer` or `Answer`.
    """

    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "question": ("problem", "Problem", "question", "Question"),
        "answer": ("answer", "Answer"),
        "id": ("id", "ID", "problem_idx"),
        "level": ("level",),
    }
    sample = ("trieline.envs.question.samples", "aime")
    default_prompt = (
        "{question}\n\nThe answer is an integer from 0 to 999. Think step by step, and put it within "
        "\\boxed{}."
    )

    @classmethod
    def gold_of(cls, row: Row) -> tuple[str, ...]:
        (gold,) = super().gold_of(row)
        if not (gold.isascii() and gold.isdecimal() and int(gold) <= 999):
            msg = f"answer: expected an integer from 0 to 999, got {gold[:60]!r}"
            raise DataError(msg)
        return (str(int(gold)),)
