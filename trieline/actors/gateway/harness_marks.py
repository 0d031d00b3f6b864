"""What harnesses say of themselves beside what they ask: whose request it is, and what they add and move.

All of it is what real clients were seen to send (tests/actors/gateway/bodies). None of it is trusted: it says
where a request belongs, never what may be done with it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from trieline.actors.gateway.asked import Declared
from trieline.common.message import Message

TAKEN_OUT: dict[str, str] = {
    "x-anthropic-billing-header: a system block of Claude Code": "it differs between main and sub-agents",
    "cache_control on any block, tool or message": "it wanders to the latest message",
    "id and status of the items of /v1/responses": "agents write their own, anew for each conversation",
    "signature of a thought": "it is no part of what was thought",
    "strict of a tool": "it says how a server checks arguments",
    "annotations and logprobs of a text": "some clients send back those of our reply, others leave them out",
}
"""Nothing of this reaches `Asked`, so that a turn that is sent again is what it was. Most of it is left
unread where the body is read (`apis`); the first is looked for in the texts."""

MAIN = "main"
"""The thread of an agent that nobody sent, where the harness gives it no name."""
MOST_CHARACTERS = 200
"""Of a header that is a name."""

_BILLING = "x-anthropic-billing-header:"
# By what a request is known that is not the agent's own work. Claude Code asks for a summary at the end of
# the conversation; opencode asks other agents of its own, who have other instructions.
_CLAUDE_SUMMARY = "create a detailed summary of the conversation"
_OPENCODE_AGENTS: dict[str, Literal["compaction", "side"]] = {
    "You are a title generator": "side",
    "You are a context summarization agent": "compaction",
}
_SESSION_NAMES = ("x-session-id", "x-session-affinity", "session_id")


def without_marks(texts: Sequence[str]) -> list[str]:
    """System blocks, without those that a harness means for somebody else."""
    return [text for text in texts if not text.startswith(_BILLING)]


def declared(headers: Mapping[str, str], messages: Sequence[Message]) -> Declared:
    """Where a request belongs, as far as the harness says. `headers`: in any case."""
    found = {name.lower(): value[:MOST_CHARACTERS] for name, value in headers.items()}
    if "x-claude-code-session-id" in found:
        return _of_claude_code(found, messages)
    if "session-id" in found and "thread-id" in found:
        return _of_codex(found, _turn_metadata(headers))
    return _of_others(found, messages)


def _of_claude_code(headers: Mapping[str, str], messages: Sequence[Message]) -> Declared:
    agent = headers.get("x-claude-code-agent-id", "")
    parent = headers.get("x-claude-code-parent-agent-id", "")
    heard = [message for message in messages if message.role != "system"]  # which may follow the question
    asked_last = heard[-1].content if heard and heard[-1].role == "user" else ""
    return Declared(
        session=headers["x-claude-code-session-id"],
        thread=agent or MAIN,
        parent_thread=parent or (MAIN if agent else ""),
        purpose="compaction" if _CLAUDE_SUMMARY in asked_last else "",
    )


def _of_codex(headers: Mapping[str, str], metadata: Mapping[str, Any]) -> Declared:
    kind = metadata.get("request_kind", "turn")
    return Declared(
        session=headers["session-id"],
        thread=headers["thread-id"],
        parent_thread=headers.get("x-codex-parent-thread-id", ""),
        window=headers.get("x-codex-window-id", ""),
        purpose="" if kind == "turn" else "compaction" if kind == "compaction" else "side",
    )


def _turn_metadata(headers: Mapping[str, str]) -> dict[str, Any]:
    """What Codex says of a turn: an object as JSON."""
    text = next((text for name, text in headers.items() if name.lower() == "x-codex-turn-metadata"), "{}")
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}


def _of_others(headers: Mapping[str, str], messages: Sequence[Message]) -> Declared:
    """opencode names its conversation and, for a sub-agent, the one that sent it; others only theirs."""
    own = next((headers[name] for name in _SESSION_NAMES if headers.get(name)), "")
    parent = headers.get("x-parent-session-id", "")
    instructions = messages[0].content if messages[0].role == "system" else ""
    found = [purpose for begins, purpose in _OPENCODE_AGENTS.items() if instructions.startswith(begins)]
    purpose = found[0] if own and found else ""
    return Declared(session=parent or own, thread=own, parent_thread=parent, purpose=purpose)
