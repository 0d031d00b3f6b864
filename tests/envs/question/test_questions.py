import json
from pathlib import Path
from typing import Any

import pytest

from trieline.envs import make_env
from trieline.envs.errors import DataError, EnvError, TaskError
from trieline.envs.question.published import AIME, GSM8K, MATH
from trieline.envs.question.questions import Questions

GSM8K_ROWS = Path(__file__).parents[3].parent / "shared" / "data" / "gsm8k"


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def played(env: Questions, task_id: str, reply: str) -> tuple[float, dict[str, Any]]:
    env.reset(options={"task_id": task_id})
    _, reward, terminated, _, info = env.step(reply)
    assert terminated
    return reward, info["score"]


def test_questions_of_anybody(tmp_path: Path) -> None:
    data = written(tmp_path / "own.jsonl", [{"prompt": "2+2?", "response": "4"}])
    env = Questions(data=data, columns={"answer": "response"}, test_share=0.0)
    observation, info = env.reset(seed=0)
    assert observation == "2+2?\n\nReply with the answer only."
    assert played(env, info["task_id"], "It is 4.") == (
        1.0,
        {"correct": True, "reason": "equal", "answer": "4", "gold": "4"},
    )
    assert played(env, info["task_id"], "2+2")[0] == 0.0


@pytest.mark.parametrize(
    ("row", "letter"),
    [
        ({"question": "?", "choices": ["a", "b"], "answer": 1}, "B"),
        ({"question": "?", "choices": ["x", "y", "z"], "answer": "C"}, "C"),
        ({"question": "?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}, "B"),
        ({"question": "?", "options": ["first", "second"], "answer": "second"}, "B"),
    ],
)
def test_choices_as_they_are_published(tmp_path: Path, row: dict[str, Any], letter: str) -> None:
    columns = {"answer": "answerKey"} if "answerKey" in row else {}
    env = Questions(data=written(tmp_path / "c.jsonl", [row]), columns=columns, test_share=0.0)
    observation, info = env.reset(seed=0)
    assert "A. " in observation
    assert played(env, info["task_id"], f"({letter})")[0] == 1.0
    assert played(env, info["task_id"], "D")[0] == 0.0


def test_a_chat_as_the_question_and_a_record_as_the_answer(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "6*7?"}]
    row = {"prompt": chat, "reward_model": {"ground_truth": "42", "style": "rule"}}
    env = Questions(data=written(tmp_path / "r.jsonl", [row]), test_share=0.0)
    observation, info = env.reset(seed=0)
    assert observation.startswith("Be brief.\n\n6*7?")
    assert played(env, info["task_id"], "42")[0] == 1.0


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"answer": "1"}, "line 1: question: expected a text in the column question or problem"),
        ({"question": "?"}, "line 1: answer: expected a text in the column answer"),
        ({"question": "?", "answer": "#### "}, "line 1: answer: expected one, got nothing"),
        ({"question": "?", "answer": {"x": 1}}, "line 1: answer: expected a text"),
        ({"question": [{"role": "tool", "content": "x"}], "answer": "1"}, "expected messages of system and"),
        ({"question": "?", "choices": ["a"], "answer": 0}, "choices: expected 2 to 26, got 1"),
        ({"question": "?", "choices": ["a", "b"], "answer": 2}, "expected label, place or text of one of 2"),
        ({"question": "?", "answer": []}, "answer: expected 1 to 100 texts"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Questions(data=written(tmp_path / "bad.jsonl", [row]))


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(TaskError, match="expected form to be one of"):
        Questions(form="regex")
    with pytest.raises(TaskError, match=r"with \{question\} in it"):
        Questions(prompt="Answer!")
    with pytest.raises(TaskError, match="columns: expected names out of"):
        Questions(columns={"gold": "x"})
    with pytest.raises(EnvError, match="no data/set"):
        make_env("trieline/Questions-v0", data="no data/set")


def test_aime_takes_integers_up_to_999(tmp_path: Path) -> None:
    env = AIME(data=written(tmp_path / "a.jsonl", [{"Problem": "?", "Answer": "073"}]), test_share=0.0)
    _, info = env.reset(seed=0)
    assert played(env, info["task_id"], "so \\boxed{073}")[0] == 1.0
    with pytest.raises(DataError, match="from 0 to 999"):
        AIME(data=written(tmp_path / "b.jsonl", [{"problem": "?", "answer": "1000"}]))


def test_levels_of_math_are_the_published_ones() -> None:
    env = MATH()
    assert env.levels == 5
    for level in range(5):
        env.reset(seed=level, options={"level": level})
        assert env.task.difficulty == f"Level {level + 1}"


@pytest.mark.skipif(not GSM8K_ROWS.is_dir(), reason="shared/data/gsm8k is not beside the checkout")
def test_real_solutions_of_gsm8k_score_and_others_do_not() -> None:
    env = GSM8K(
        data=str(GSM8K_ROWS / "train_1500.jsonl"), test_data=str(GSM8K_ROWS / "test_first_half.jsonl")
    )
    assert (len(env.task_ids("train")), len(env.task_ids("test"))) == (1500, 660)
    rows = [json.loads(line) for line in (GSM8K_ROWS / "test_first_half.jsonl").read_text().splitlines()]
    ids = env.task_ids("test")
    lost = []
    for task_id, row in zip(ids, rows, strict=True):
        gold = row["answer"].rpartition("####")[2].strip()
        right = [row["answer"], f"The answer is ${gold}.", f"**{gold}**", f"so it's \\boxed{{{gold}}}"]
        wrong = ["", f"{gold}1", f"{gold} or not, 0.123"]
        lost += [reply for reply in right if played(env, task_id, reply)[0] != 1.0]
        lost += [reply for reply in wrong if played(env, task_id, reply)[0] != 0.0]
    assert lost == []


@pytest.mark.parametrize("labels", [[1, 2, 3], ["1", "2", "3"]])
def test_a_number_is_the_label_where_labels_are_numbers(tmp_path: Path, labels: list[Any]) -> None:
    row = {"question": "?", "choices": {"text": ["x", "y", "z"], "label": labels}, "answer": 2}
    env = Questions(data=written(tmp_path / "c.jsonl", [row]), test_share=0.0)
    _, info = env.reset(seed=0)
    assert played(env, info["task_id"], "B")[0] == 1.0
