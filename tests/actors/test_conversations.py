"""Written conversations: what becomes context, what a reply, what is shared, and what a bad line is told."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.actors.chat_folder import write_chat_folder
from trieline.actors.chat import ChatRenderer
from trieline.actors.conversations import conversation_trees, read_conversations, select_sequences
from trieline.actors.errors import ConversationError


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> ChatRenderer:
    return ChatRenderer(write_chat_folder(tmp_path_factory.mktemp("chat")), system_prompt="")


def chat(*contents: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": c} for i, c in enumerate(contents)]}


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return path


def test_replies_are_trained_and_everything_else_is_context(tmp_path: Path, renderer: ChatRenderer) -> None:
    path = write(tmp_path / "a.jsonl", chat("What is 12 + 30?", "42", "turn 1 of 3", "good"))
    (tree,) = conversation_trees(read_conversations(path, renderer), renderer)
    tree.validate(vocab_size=renderer.vocab_size)
    texts = [
        renderer._tokenizer.decode(tree.token_ids[tree.node_tokens(n)].tolist(), skip_special_tokens=False)
        for n in range(len(tree.parents))
    ]
    assert texts[1] == "42<|im_end|>"
    assert texts[3] == "good<|im_end|>"
    assert texts[2] == "\n<|im_start|>user\nturn 1 of 3<|im_end|>\n<|im_start|>assistant\n"
    assert tree.sampled.tolist() == [False, True, False, True]
    assert "".join(texts).endswith("assistant\ngood<|im_end|>")


def test_tokens_are_those_that_an_episode_would_have(tmp_path: Path, renderer: ChatRenderer) -> None:
    path = write(tmp_path / "a.jsonl", chat("one", "42", "two", "good"))
    (runs,) = read_conversations(path, renderer)
    reply = renderer.reply_tokens("42")
    expected = [
        renderer.prompt_tokens("one"),
        reply,
        renderer.turn_tokens(1, "two", last_token=int(reply[-1])),
        renderer.reply_tokens("good"),
    ]
    for (tokens, _), wanted in zip(runs, expected, strict=True):
        assert np.array_equal(tokens, wanted)


def test_shared_turns_are_there_once(tmp_path: Path, renderer: ChatRenderer) -> None:
    path = write(
        tmp_path / "a.jsonl",
        chat("one", "42", "two", "good"),
        chat("other", "bad"),
        chat("one", "42", "two", "bad"),
        "",
        chat("one", "42"),
    )
    first, second = conversation_trees(read_conversations(path, renderer), renderer)
    assert first.num_leaves == 3
    assert second.num_leaves == 1
    assert len(first.parents) == 5
    assert first.leaf_nodes.tolist() == [3, 4, 1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"messages": ', "line 2: Input data was truncated"),
        ('{"messages": "hello"}', r"line 2: Expected `array`, got `str` - at `\$.messages`"),
        ('{"text": "hello"}', "line 2: Object missing required field `messages`"),
        (chat("one"), r"line 2: Expected `array` of length >= 2"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "bot", "content": "b"}]},
            r"line 2: Invalid enum value 'bot' - at `\$.messages\[1\].role`",
        ),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
            r"line 2: expected a reply \(role assistant\)",
        ),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ["b"]}]},
            r"line 2: Expected `str`, got `array` - at `\$.messages\[1\].content`",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, renderer: ChatRenderer, line: object, message: str) -> None:
    path = write(tmp_path / "bad.jsonl", chat("one", "42"), line)
    with pytest.raises(ConversationError, match=rf"bad\.jsonl, {message}"):
        read_conversations(path, renderer)


def test_files_without_conversations_are_refused(tmp_path: Path, renderer: ChatRenderer) -> None:
    with pytest.raises(ConversationError, match="got none"):
        read_conversations(write(tmp_path / "empty.jsonl", ""), renderer)
    with pytest.raises(ConversationError, match="No such file"):
        read_conversations(tmp_path / "missing.jsonl", renderer)


def test_sequences_are_selected_by_their_return(tmp_path: Path, renderer: ChatRenderer) -> None:
    path = write(tmp_path / "a.jsonl", chat("one", "42"), chat("one", "good"))
    (tree,) = conversation_trees(read_conversations(path, renderer), renderer)
    tree.rewards[int(tree.leaf_nodes[1])] = 1.0
    kept = select_sequences(tree, min_return=0.5)
    assert kept is not None
    kept.validate(vocab_size=renderer.vocab_size)
    assert kept.leaf_nodes.tolist() == [int(tree.leaf_nodes[1])]
    assert select_sequences(tree, min_return=2.0) is None
