"""Written conversations: what becomes context, what a reply, what is shared, and what a bad line is told."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from tests.actors.chat_folder import write_chat_folder
from tests.actors.chat_styles import FORGETFUL, PREFILLED
from trieline.actors.chat import ChatRenderer
from trieline.actors.conversations import conversation_trees, read_conversations, select_sequences
from trieline.actors.errors import ConversationError
from trieline.wire.tree import TrajectoryTree


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> ChatRenderer:
    return ChatRenderer(write_chat_folder(tmp_path_factory.mktemp("chat")), system_prompt="")


def chat(*contents: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": c} for i, c in enumerate(contents)]}


def with_reply(**fields: Any) -> dict[str, Any]:
    """A conversation whose reply has more fields."""
    question, reply = chat("one", "42")["messages"]
    return {"messages": [question, {**reply, **fields}]}


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"id": "call_0001a", "type": "function", "function": {"name": name, "arguments": arguments}}


def texts(tree: TrajectoryTree, renderer: ChatRenderer, *, sampled: bool = True) -> list[str]:
    nodes = np.flatnonzero(tree.sampled == sampled)
    return [renderer._tokens.decode(tree.token_ids[tree.node_tokens(int(n))]) for n in nodes]


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return path


def test_replies_are_trained_and_everything_else_is_context(tmp_path: Path, renderer: ChatRenderer) -> None:
    path = write(tmp_path / "a.jsonl", chat("What is 12 + 30?", "42", "turn 1 of 3", "good"))
    (tree,) = conversation_trees(read_conversations(path, renderer), renderer)
    tree.validate(vocab_size=renderer.vocab_size)
    assert tree.sampled.tolist() == [False, True, False, True]
    assert texts(tree, renderer) == ["42<|im_end|>", "good<|im_end|>"]
    opening, between = texts(tree, renderer, sampled=False)
    assert opening.endswith("What is 12 + 30?<|im_end|>\n<|im_start|>assistant\n")
    assert between == "\n<|im_start|>user\nturn 1 of 3<|im_end|>\n<|im_start|>assistant\n"


def test_tokens_are_those_that_an_episode_would_have(tmp_path: Path, renderer: ChatRenderer) -> None:
    path = write(tmp_path / "a.jsonl", chat("one", "42", "two", "good"))
    ((runs,),) = read_conversations(path, renderer)
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
        ("[1]", "line 2: Expected `object`, got `array`"),
        pytest.param("[" * 20_000 + "]" * 20_000, "line 2: maximum recursion depth", id="deep"),
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
        (
            chat("one", " \n"),
            r"line 2: expected a reply with text or tool calls at messages\[1\], got an empty",
        ),
        (
            with_reply(refusal="no"),
            r"line 2: Object contains unknown field `refusal` - at `\$.messages\[1\]`",
        ),
        (
            with_reply(function_call={"name": "f"}),
            r"line 2: Object contains unknown field `function_call` - at `\$.messages\[1\]`",
        ),
        (
            with_reply(weight=0.5),
            r"line 2: Expected `int | null`, got `float` - at `\$.messages\[1\].weight`",
        ),
        (with_reply(weight=2), r"line 2: Invalid enum value 2 - at `\$.messages\[1\].weight`"),
        (
            with_reply(weight=0),
            "line 2: expected a reply that is trained on, got weight 0 or train false on all",
        ),
        (with_reply(train=False), "line 2: expected a reply that is trained on"),
        (with_reply(name="Bob"), "line 2: the chat template does not show name"),
        (with_reply(reasoning_content="hm"), "line 2: the chat template does not show the field reasoning"),
        (with_reply(tool_calls=[call("f", "{}")]), "line 2: the chat template does not show tool_calls"),
        (
            with_reply(tool_calls=[call("f", "{")]),
            r"line 2: Expected `object`, got `str` - at `\$.messages\[1\].tool_calls\[0\].arguments`",
        ),
        ({**chat("one", "42"), "tools": [call("f", None)]}, "line 2: the chat template does not show tools"),
        (
            {**chat("one", "42"), "functions": [{"name": "f"}]},
            "line 2: expected the fields messages and tools, got functions, which",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "a", "train": True},
                    {"role": "assistant", "content": "b"},
                ]
            },
            r"line 2: expected weight or train on replies alone, got it at messages\[0\] \(role user\)",
        ),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            "line 2: expected the fields messages and tools, got conversations",
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
    kept = select_sequences(replace(tree, leaf_groups=np.array([0, 3], np.int32)), min_return=0.5)
    assert kept is not None
    kept.validate(vocab_size=renderer.vocab_size)
    assert kept.leaf_groups.tolist() == [3]


@pytest.mark.parametrize("untrained", [{"weight": 0}, {"train": False}, {"weight": 0, "train": None}])
def test_a_reply_that_is_not_to_be_trained_on_is_context(
    tmp_path: Path, renderer: ChatRenderer, untrained: dict[str, Any]
) -> None:
    line = chat("one", "bad", "two", "good", "three", "42")
    line["messages"][1] |= untrained
    line["messages"][3] |= {"weight": 1, "train": True}
    line["messages"][5] |= untrained
    (tree,) = conversation_trees(read_conversations(write(tmp_path / "a.jsonl", line), renderer), renderer)
    assert texts(tree, renderer) == ["good<|im_end|>"]
    (context,) = texts(tree, renderer, sampled=False)
    assert "assistant\nbad<|im_end|>" in context
    assert "42" not in context


def test_what_is_null_or_the_file_s_own_is_not_read(tmp_path: Path, renderer: ChatRenderer) -> None:
    plain = chat("one", "42")
    filled = {**chat("one", "42"), "id": 7, "source": "x", "tools": None, "functions": None, "prompt": None}
    for message in filled["messages"]:
        message |= {"tool_calls": None, "name": None, "weight": None, "refusal": None, "audio": None}
    path = write(tmp_path / "a.jsonl", plain, filled)
    first, second = read_conversations(path, renderer)
    assert [(t.tolist(), r) for t, r in first[0]] == [(t.tolist(), r) for t, r in second[0]]


WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    "calls",
    [
        [call("weather", '{"city": "Paris"}')],
        [call("weather", {"city": "Paris"})],
        [{"name": "weather", "arguments": {"city": "Paris"}}],
        [{"index": 0, "id": None, **call("weather", '{"city": "Paris"}')}],
    ],
    ids=["text", "object", "bare", "of a stream"],
)
@pytest.mark.parametrize("thinking", ["reasoning", "reasoning_content", "thinking"])
def test_calls_in_every_shape_reach_the_template(tmp_path: Path, calls: list[Any], thinking: str) -> None:
    folder = write_chat_folder(tmp_path / "m", template=FORGETFUL.template)
    renderer = ChatRenderer(folder, system_prompt="")
    messages = [
        {"role": "user", "content": "How warm is Paris?"},
        {"role": "assistant", "content": None, "tool_calls": calls, thinking: "hm"},
        {"role": "tool", "tool_call_id": "call_0001a", "name": "weather", "content": "12 C"},
        {"role": "assistant", "content": "12 degrees."},
    ]
    path = write(tmp_path / "a.jsonl", {"messages": messages, "tools": [WEATHER]})
    (tree,) = conversation_trees(read_conversations(path, renderer), renderer)
    said = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    assert texts(tree, renderer) == [
        f"<think>\nhm\n</think>\n\n{said}<|im_end|>",
        "<think>\n\n</think>\n\n12 degrees.<|im_end|>",
    ]
    assert json.dumps(WEATHER) in texts(tree, renderer, sampled=False)[0]


def test_a_reply_that_the_template_rewrites_later_is_a_branch(tmp_path: Path) -> None:
    folder = write_chat_folder(tmp_path / "m", template=FORGETFUL.template)
    renderer = ChatRenderer(folder, system_prompt="")
    line = chat("one", "<think>\na\n</think>\n\n42", "two", "<think>\nb\n</think>\n\ngood", "three", "bad")
    path = write(tmp_path / "a.jsonl", line)
    (tree,) = conversation_trees(read_conversations(path, renderer), renderer)
    tree.validate(vocab_size=renderer.vocab_size)
    assert tree.num_leaves == 3
    assert sorted(texts(tree, renderer)) == sorted(
        f"<think>\n{thought}\n</think>\n\n{said}<|im_end|>"
        for thought, said in (("a", "42"), ("b", "good"), ("", "bad"))
    )
    # What the branches share of the context is there once.
    assert (
        tree.num_tokens < sum(len(tree.sequence_index(leaf)) for leaf in range(3)) - 2 * tree.node_offsets[1]
    )
    by_policy = np.repeat(tree.sampled, np.diff(tree.node_offsets))
    for leaf in range(3):
        index = tree.sequence_index(leaf)
        assert by_policy[index].sum() == np.diff(tree.node_offsets)[int(tree.leaf_nodes[leaf])]


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path, renderer: ChatRenderer) -> None:
    path = write(tmp_path / "a.jsonl", chat("one", "42"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_conversations(path, renderer)) == 1
    path.write_text(json.dumps(chat("one", "42")), encoding="utf-16")
    with pytest.raises(ConversationError, match=r"expected UTF-8 in .*a\.jsonl, got UTF-16"):
        read_conversations(path, renderer)


def test_unusable_lines_are_left_out_and_listed(
    tmp_path: Path, renderer: ChatRenderer, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.jsonl", chat("one", "42"), chat("two", ""), "no", chat("three", "good"), "no")
    with caplog.at_level(logging.WARNING, logger="trieline.actors"):
        assert len(read_conversations(path, renderer, max_unusable=3)) == 2
    assert "a.jsonl: 2 conversations; lines left out (3): line 2: expected a reply with text" in caplog.text
    assert "; line 3: Input data was truncated" in caplog.text
    with pytest.raises(ConversationError, match=r"a\.jsonl, line 2: .*; line 3: .*; line 5: "):
        read_conversations(path, renderer, max_unusable=2)
    many = write(tmp_path / "b.jsonl", chat("one", "42"), *["no"] * 12)
    caplog.clear()
    read_conversations(many, renderer, max_unusable=12)
    assert "line 11: " in caplog.text
    assert "line 12: " not in caplog.text
    assert "and 2 more" in caplog.text


def test_conversations_beyond_the_model_s_positions_are_named(
    tmp_path: Path, renderer: ChatRenderer, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.jsonl", chat("one", "42"), chat("one " * 100, "good"))
    with caplog.at_level(logging.WARNING, logger="trieline.actors"):
        found = read_conversations(path, renderer, max_tokens=60)
    length = sum(len(tokens) for tokens, _ in found[1][0])
    assert len(found) == 2
    assert f"longer than the 60 tokens that the model was made for (1): line 2: {length}" in caplog.text


def test_a_system_message_that_the_template_leaves_out_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    template = FORGETFUL.template.replace(
        "{% else %}{{ '<|im_start|>' + m.role", "{% elif m.role == 'user' %}{{ '<|im_start|>' + m.role"
    )
    renderer = ChatRenderer(write_chat_folder(tmp_path / "m", template=template), system_prompt="")
    line = chat("one", "42")
    line["messages"].insert(0, {"role": "system", "content": "Be brief."})
    with caplog.at_level(logging.WARNING, logger="trieline.actors"):
        read_conversations(write(tmp_path / "a.jsonl", line, line), renderer)
    assert caplog.text.count("leaves out system messages") == 1


def test_a_system_message_stands_in_the_first_one_where_the_template_refuses_it(tmp_path: Path) -> None:
    template = PREFILLED.template.replace(
        "{% for m in messages %}",
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}",
        1,
    ).replace("<think>\n", "")
    folder = write_chat_folder(
        tmp_path / "m", template=template, special=PREFILLED.special, eos=PREFILLED.eos
    )
    line = chat("one", "42")
    line["messages"].insert(0, {"role": "system", "content": "Be brief."})
    renderer = ChatRenderer(folder, system_prompt="")
    (tree,) = conversation_trees(read_conversations(write(tmp_path / "a.jsonl", line), renderer), renderer)
    assert texts(tree, renderer, sampled=False) == ["<|begin|><|User|>Be brief.\n\none<|Assistant|>"]
