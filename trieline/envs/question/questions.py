"""`trieline/Questions-v0`: questions and answers out of anybody's data, one turn each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from trieline.common.text import encodable
from trieline.envs.datasets.dataset_env import MOST_QUESTION, DatasetEnv
from trieline.envs.datasets.records import said
from trieline.envs.datasets.rows import Row
from trieline.envs.datasets.task_set import Difficulty
from trieline.envs.errors import DataError, TaskError
from trieline.envs.question.answers import LETTERS, Form, form_of, gold_answer, judged, read_answer
from trieline.envs.text_env import Turn

FORMS: tuple[Form | str, ...] = ("auto", "integer", "number", "expression", "text", "choice")
MOST_GOLD = 100
"""Answers that are right, of one row."""
SHOWN_LENGTH = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """`gold`: every answer that is right; of choices, their letters."""

    question: str
    gold: tuple[str, ...]
    form: Form
    choices: tuple[str, ...] = ()
    named: str | None = None
    difficulty: Difficulty | None = None

    @property
    def key(self) -> str:
        return "\n".join([self.question, *self.choices])

    @property
    def identity(self) -> str:
        return "\0".join(self.gold)


class Questions(DatasetEnv[Question]):
    """Reward 1 for the right answer (see `answers`).

    Args, beside those of every data set:
        form: of the answers: `integer`, `number`, `expression` (of LaTeX), `text`, `choice`. `auto`: of each
            row what its gold answer looks like.
    """

    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "question": ("question", "problem", "prompt", "query", "input"),
        "answer": ("answer", "ground_truth", "reward_model.ground_truth", "target", "label", "output"),
        "choices": ("choices", "options"),
        "id": ("id", "task_id", "unique_id", "question_id"),
        "level": ("level", "difficulty"),
    }
    sample = ("trieline.envs.question.samples", "questions")
    default_prompt: ClassVar[str] = "{question}\n\nReply with the answer only."

    def __init__(self, *, form: str = "auto", **settings: Any) -> None:
        if form not in FORMS:
            msg = f"expected form to be one of {FORMS}, got {form!r}"
            raise TaskError(msg)
        super().__init__(**settings)
        self._form = form

    @classmethod
    def task_of(cls, row: Row) -> Question:
        question = _question_text(row)
        if len(question) > MOST_QUESTION:
            msg = f"question: expected at most {MOST_QUESTION:,} characters, got {len(question):,}"
            raise DataError(msg)
        choices = _choices(row)
        gold = _chosen(row, choices) if choices else cls.gold_of(row)
        return Question(
            question=question,
            gold=gold,
            form="choice" if choices else form_of(gold[0]),
            choices=tuple(text for _, text in choices),
            named=row.optional_text("id"),
            difficulty=cls.difficulty_of(row),
        )

    @classmethod
    def gold_of(cls, row: Row) -> tuple[str, ...]:
        """The answers that are right. Raises DataError."""
        value = row.value("answer")
        if isinstance(value, Mapping):  # as in TriviaQA
            value = value.get("aliases") or value.get("text") or value.get("value")
        if isinstance(value, list):
            if not 0 < len(value) <= MOST_GOLD or not all(isinstance(one, str) and one for one in value):
                msg = f"answer: expected 1 to {MOST_GOLD} texts that are right, got {said(value)}"
                raise DataError(msg)
            return tuple(gold_answer(one) for one in value)
        answer = gold_answer(str(value) if isinstance(value, bool) else row.text("answer"))
        if not answer:
            msg = "answer: expected one, got nothing behind its mark"
            raise DataError(msg)
        return (answer,)

    @classmethod
    def difficulty_of(cls, row: Row) -> Difficulty | None:
        """Of a row, by its column."""
        return row.difficulty()

    def begin(self, task: Question) -> str:
        lines = [f"{LETTERS[at]}. {text}" for at, text in enumerate(task.choices)]
        return self.asked("\n".join([task.question, *lines]))

    def act(self, action: str) -> Turn:
        form = self.task.form if self._form == "auto" or self.task.choices else self._form
        answer = read_answer(action, form)  # type: ignore[arg-type]  # one of FORMS
        verdict = judged(self.task.gold, answer, form)  # type: ignore[arg-type]
        score = {
            "correct": verdict.correct,
            "reason": verdict.reason,
            "answer": encodable(answer, SHOWN_LENGTH),
            "gold": encodable(self.task.gold[0], SHOWN_LENGTH),
        }
        observation = "Correct." if verdict.correct else "Wrong."
        return Turn(observation=observation, reward=float(verdict.correct), over=True, score=score)

    def solution(self) -> str:
        return self.task.gold[0]

    def demonstrate(self) -> Iterator[str]:
        yield self.solution()


def _question_text(row: Row) -> str:
    """A text, or messages of which one is the user's, as chats are kept."""
    value = row.value("question")
    if not isinstance(value, list):
        return row.text("question")
    texts: dict[str, list[str]] = {"system": [], "user": []}
    for message in value:
        role = message.get("role") if isinstance(message, Mapping) else None
        content = message.get("content") if isinstance(message, Mapping) else None
        if role not in texts or not isinstance(content, str):
            msg = f"question: expected messages of system and user with a text each, got {said(message)}"
            raise DataError(msg)
        texts[role].append(content)
    if len(texts["user"]) != 1:
        msg = f"question: expected one message of the user, got {len(texts['user'])}"
        raise DataError(msg)
    return "\n\n".join([*texts["system"], *texts["user"]])


def _choices(row: Row) -> list[tuple[str, str]]:
    """Labels and texts: a list of texts, as in MMLU, or `{"text": [...], "label": [...]}`, as in ARC."""
    value = row.value("choices")
    if value is None:
        return []
    texts: Any = value
    labels: Any = None
    if isinstance(value, Mapping):
        texts, labels = value.get("text"), value.get("label")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        msg = f"choices: expected a list of texts, got {said(value)}"
        raise DataError(msg)
    if not 2 <= len(texts) <= len(LETTERS):
        msg = f"choices: expected 2 to {len(LETTERS)}, got {len(texts)}"
        raise DataError(msg)
    names = labels if isinstance(labels, list) and len(labels) == len(texts) else LETTERS[: len(texts)]
    return [(str(name), text) for name, text in zip(names, texts, strict=True)]


def _chosen(row: Row, choices: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """The letter of the right one, which a row names by label, by place from 0, or by its text."""
    value = row.value("answer")
    number = value if isinstance(value, int) and not isinstance(value, bool) else None
    named = str(number) if number is not None else value
    labelled = [at for at, (label, _) in enumerate(choices) if named == label]
    # With labels of their own, numbers are those; with ours, which are letters, they count from 0.
    own_labels = [label for label, _ in choices] != list(LETTERS[: len(choices)])
    placed = [number] if number is not None and not own_labels else []
    for match in (labelled, placed, [at for at, (_, text) in enumerate(choices) if value == text]):
        if len(match) == 1 and 0 <= match[0] < len(choices):
            return (LETTERS[match[0]],)
    msg = f"answer: expected label, place or text of one of {len(choices)} choices, got {said(value)}"
    raise DataError(msg)
