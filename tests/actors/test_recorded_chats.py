"""Recorded chats as trees: what each earned is its return."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.actors.chat_folder import write_chat_folder
from tests.actors.test_conversations import chat, write
from trieline.actors.chat import ChatRenderer
from trieline.actors.errors import ConversationError
from trieline.actors.recorded_chats import chat_trees, read_chats


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> ChatRenderer:
    return ChatRenderer(write_chat_folder(tmp_path_factory.mktemp("chat")), system_prompt="")


def returns(path: Path, renderer: ChatRenderer) -> list[list[float]]:
    trees = chat_trees(read_chats(path, renderer))
    for tree in trees:
        tree.validate(vocab_size=renderer.vocab_size)
    return [[tree.sequence_return(leaf) for leaf in range(tree.num_leaves)] for tree in trees]


def test_each_chat_has_the_return_that_it_earned(tmp_path: Path, renderer: ChatRenderer) -> None:
    rows = [
        chat("one", "42") | {"reward": 1},
        chat("one", "42", "two", "good") | {"reward": 0.25},
        chat("one", "bad") | {"reward": None},
        chat("other", "bad") | {"reward": -1.5},
        chat("one", "42") | {"reward": 1},
    ]
    assert returns(write(tmp_path / "a.jsonl", *rows), renderer) == [[1, 0.25, 0, 1], [-1.5]]


def test_the_same_chat_with_another_reward_is_in_a_tree_of_its_own(
    tmp_path: Path, renderer: ChatRenderer
) -> None:
    rows = [chat("one", "42") | {"reward": r} for r in (0, 1, 0, 1, 1)]
    assert returns(write(tmp_path / "a.jsonl", *rows), renderer) == [[0, 0], [1, 1, 1]]


def test_tasks_keep_their_names(tmp_path: Path, renderer: ChatRenderer) -> None:
    named = {"env_id": "my/Env-v0", "task_id": "seven", "level": 2, "terminated": False}
    path = write(
        tmp_path / "a.jsonl", chat("one", "42") | named, chat("one", "42"), chat("one", "bad") | named
    )
    first, second = chat_trees(read_chats(path, renderer))
    assert (first.env_id, first.task_id, first.level, first.num_leaves) == ("my/Env-v0", "seven", 2, 2)
    assert not first.leaf_terminated.any()
    assert (second.env_id, second.task_id, second.level) == ("conversations", "1", 0)


@pytest.mark.parametrize("reward", ["1", True, [1], {"a": 1}])
def test_a_reward_that_is_no_number_is_named(reward: Any, tmp_path: Path, renderer: ChatRenderer) -> None:
    path = write(tmp_path / "a.jsonl", chat("one", "42") | {"reward": reward})
    with pytest.raises(ConversationError, match="line 1: expected a finite number as reward, got"):
        read_chats(path, renderer)
    assert json.loads(path.read_text())["reward"] == reward


def test_nan_is_no_reward(tmp_path: Path, renderer: ChatRenderer) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(chat("one", "42") | {"reward": float("nan")}) + "\n")
    with pytest.raises(ConversationError, match="line 1: "):
        read_chats(path, renderer)


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path, renderer: ChatRenderer) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ConversationError, match=r"expected Parquet in .*a\.parquet, got"):
        read_chats(tmp_path / "a.parquet", renderer)
    with pytest.raises(ConversationError, match=r"expected Parquet in .*none\.parquet, got"):
        read_chats(tmp_path / "none.parquet", renderer)
