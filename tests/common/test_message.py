"""Messages in the shapes that are in use, as one record."""

from typing import Any

import msgspec
import pytest

from trieline.common.message import Message, ToolCall, plain_message, plain_value

CALL = ToolCall(name="weather", arguments={"city": "Paris"}, id="c1")


def read(**fields: Any) -> Message:
    return msgspec.convert(plain_message(fields), Message)


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
def test_thinking_has_several_names(name: str) -> None:
    assert read(role="assistant", content="2", **{name: "hm"}) == Message(
        role="assistant", content="2", reasoning="hm"
    )


@pytest.mark.parametrize(
    "call",
    [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}},
        {"id": "c1", "index": 0, "function": {"name": "weather", "arguments": {"city": "Paris"}}},
        {"id": "c1", "name": "weather", "arguments": {"city": "Paris"}, "function": None},
    ],
)
def test_calls_have_several_shapes(call: dict[str, Any]) -> None:
    assert read(role="assistant", content=None, tool_calls=[call]).tool_calls == (CALL,)


def test_a_call_without_arguments_has_none() -> None:
    call = {"function": {"name": "now", "arguments": ""}}
    assert read(role="assistant", tool_calls=[call]).tool_calls == (ToolCall(name="now"),)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"role": "bot"}, r"Invalid enum value 'bot' - at `\$.role`"),
        ({"content": "a"}, "missing required field `role`"),
        ({"role": "user", "content": [{"type": "text", "text": "a"}]}, r"got `array` - at `\$.content`"),
        ({"role": "assistant", "audio": {"id": "a"}}, "unknown field `audio`"),
        ({"role": "assistant", "tool_calls": [{"type": "custom", "name": "f"}]}, "unknown field `type`"),
        ({"role": "assistant", "tool_calls": ["f"]}, r"got `str` - at `\$.tool_calls\[0\]`"),
        (
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]},
            r"Expected `object`, got `array` - at `\$.tool_calls\[0\].arguments`",
        ),
        (
            {"role": "assistant", "reasoning": "a", "thinking": "b"},
            "unknown field `thinking`",
        ),
    ],
)
def test_what_is_not_known_is_refused_by_name(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=said):
        read(**fields)


def test_json_in_text_is_read_and_other_text_left() -> None:
    assert plain_value('[{"type": "function"}]') == [{"type": "function"}]
    assert plain_value("[1") == "[1"
    assert plain_value([1]) == [1]
