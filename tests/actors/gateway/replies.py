"""Replies that are told to clients."""

from trieline.actors.gateway.asked import Replied
from trieline.common.message import Message, ToolCall

TEXT = Replied(
    request_id="r1",
    created=1_700_000_000,
    model="policy",
    message=Message(role="assistant", content="Grüße 🌲\nin two lines"),
    finish_reason="stop",
    prompt_tokens=30,
    cached_tokens=12,
    completion_tokens=5,
)
CALLS = Replied(
    request_id="r2",
    created=1_700_000_000,
    model="policy",
    message=Message(
        role="assistant",
        content="I look.",
        reasoning="Two files.",
        tool_calls=(
            ToolCall(name="shell", arguments={"command": ["ls", "-l"], "ü": "\n\u2028"}, id="call_1"),
            ToolCall(name="now", id="call_2"),
        ),
    ),
    finish_reason="tool_calls",
    prompt_tokens=40,
    completion_tokens=20,
)
CUT = Replied(
    request_id="r3",
    created=1_700_000_000,
    model="policy",
    message=Message(role="assistant", content="to be"),
    finish_reason="length",
    prompt_tokens=3,
    completion_tokens=2,
)
STOPPED = Replied(
    request_id="r4",
    created=1_700_000_000,
    model="policy",
    message=Message(role="assistant", content="Thought: a\n"),
    finish_reason="stop",
    stop="Observation:",
    prompt_tokens=3,
    completion_tokens=4,
)
ALL = (TEXT, CALLS, CUT, STOPPED)
