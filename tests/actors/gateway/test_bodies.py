"""What real clients sent: all of it is read, and where each request belongs."""

import json
from typing import Any

import pytest

from tests.actors.gateway.api_server import APIS
from tests.actors.gateway.bodies_sent import BODIES
from tests.actors.gateway.mutated import mutated, readings
from trieline.actors.gateway.asked import Asked, Declared
from trieline.common.message import Message, ToolCall


def asked_by(name: str, **changes: Any) -> Asked:
    sent = BODIES[name] | changes
    return APIS[sent["path"]].read(sent["body"], sent["headers"])


def calls_of(asked: Asked) -> list[tuple[str, str, dict[str, Any], str]]:
    """From the first reply on: role, content, arguments of the first call, and the call that is answered."""
    first = next(i for i, message in enumerate(asked.messages) if message.role == "assistant")
    return [
        (m.role, m.content, m.tool_calls[0].arguments if m.tool_calls else {}, m.tool_call_id)
        for m in asked.messages[first:]
    ]


@pytest.mark.parametrize("name", BODIES)
def test_every_recorded_body_is_read(name: str) -> None:
    asked = asked_by(name)
    assert asked.model == "policy"
    assert all(message.content or message.tool_calls for message in asked.messages)
    assert not asked.declared.purpose or not asked.tools or name == "claude_code_compaction"


@pytest.mark.parametrize("name", ["codex_turn", "claude_code_turn"])
def test_recorded_bodies_with_anything_wrong_in_them_are_read_or_refused(name: str) -> None:
    api = APIS[BODIES[name]["path"]]
    readable, refusals = readings(api, mutated(BODIES[name]["body"]))
    assert min(readable, refusals) > 300


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("openai_agents_chat", "look"),
        ("openai_agents_responses", "look"),
        ("pydantic_ai_chat", "look"),
        ("pydantic_ai_messages", "look"),
        ("langgraph_chat", "look"),
        ("langgraph_messages", "look"),
    ],
)
def test_one_conversation_is_the_same_through_every_client(name: str, tool: str) -> None:
    assert asked_by(name).messages == (
        Message(role="system", content="Be brief."),
        Message(role="user", content="Say hello."),
        Message(
            role="assistant",
            content="I look.",
            tool_calls=(ToolCall(name=tool, arguments={"what": "a"}, id="call_0"),),
        ),
        Message(role="tool", content="seen a", tool_call_id="call_0", name=tool),
    )


def test_codex_calls_tools_in_namespaces_and_gets_notes_between_turns() -> None:
    asked = asked_by("codex_turn")
    names = [tool["function"]["name"] for tool in asked.tools]
    assert names == ["exec_command", "view_image", "spawn_agent", "wait_agent"]  # and no web_search
    assert asked.tool_forms["spawn_agent"] == "namespace:multi_agent_v1:spawn_agent"
    said = calls_of(asked)
    assert [role for role, *_ in said] == ["assistant", "tool"] * 3 + ["user"]
    assert said[0] == ("assistant", "I look.", {"cmd": "echo one"}, "")
    assert said[2][2] == {"message": "Say hi."}
    assert asked.messages[-2].name == "exec_command"


def test_claude_codes_marks_are_taken_out() -> None:
    asked = asked_by("claude_code_turn")
    assert "billing" not in asked.messages[0].content
    assert [m.role for m in asked.messages[:3]] == ["system", "user", "system"]
    assert asked.messages[1].content.endswith("characters.\nSay hello.")
    assert calls_of(asked)[0][2] == {"command": "echo one", "description": "Say one"}
    moved = json.loads(json.dumps(BODIES["claude_code_turn"]["body"]))
    moved["system"][0]["text"] = "x-anthropic-billing-header: another"
    moved["messages"][0]["content"][1]["cache_control"] = {"type": "ephemeral"}
    del moved["messages"][-1]["content"][-1]["cache_control"]
    assert asked_by("claude_code_turn", body=moved) == asked


def test_a_summary_is_asked_for_after_the_same_prefix() -> None:
    """Of Claude Code and Codex: what was said before is what it was, so that its tokens are."""
    before, summary = asked_by("claude_code_turn"), asked_by("claude_code_compaction")
    same = [a == b for a, b in zip(before.messages, summary.messages, strict=False)]
    assert all(same[2:5])
    assert summary.messages[-1].role == "user"
    assert "summary" in summary.messages[-1].content
    assert asked_by("codex_compaction").messages[:4] == asked_by("codex_next_window").messages[:4]


CODEX = BODIES["codex_turn"]["headers"]["session-id"]
CLAUDE = BODIES["claude_code_turn"]["headers"]["x-claude-code-session-id"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("codex_turn", Declared(session=CODEX, thread=CODEX, window=f"{CODEX}:0")),
        ("claude_code_turn", Declared(session=CLAUDE, thread="main")),
        ("mini_swe_agent", Declared()),
        ("aider", Declared()),
        ("smolagents", Declared()),
    ],
)
def test_where_a_turn_belongs(name: str, expected: Declared) -> None:
    assert asked_by(name).declared == expected


def test_where_a_sub_agent_belongs() -> None:
    sub = asked_by("codex_sub_agent").declared
    assert (sub.session, sub.parent_thread, sub.purpose) == (CODEX, CODEX, "")
    assert sub.window == f"{sub.thread}:0" != f"{CODEX}:0"
    sub = asked_by("claude_code_sub_agent").declared
    assert (sub.session, sub.parent_thread) == (CLAUDE, "main")
    assert len(sub.thread) == 17
    turn, sub = asked_by("opencode_turn").declared, asked_by("opencode_sub_agent").declared
    assert turn.session == turn.thread == sub.session == sub.parent_thread != sub.thread


def test_a_sub_agent_of_a_sub_agent_names_it() -> None:
    headers = BODIES["claude_code_sub_agent"]["headers"] | {"X-Claude-Code-Parent-Agent-Id": "a1"}
    assert asked_by("claude_code_sub_agent", headers=headers).declared.parent_thread == "a1"


@pytest.mark.parametrize(
    ("name", "purpose"),
    [
        ("codex_compaction", "compaction"),
        ("codex_next_window", ""),
        ("claude_code_compaction", "compaction"),
        ("opencode_compaction", "compaction"),
        ("opencode_title", "side"),
        ("opencode_turn", ""),
    ],
)
def test_what_is_not_the_agents_own_work(name: str, purpose: str) -> None:
    assert asked_by(name).declared.purpose == purpose


def test_claude_code_may_say_more_after_it_asks_for_a_summary() -> None:
    body = json.loads(json.dumps(BODIES["claude_code_compaction"]["body"]))
    body["messages"].append({"role": "system", "content": "Agents there are."})
    assert asked_by("claude_code_compaction", body=body).declared.purpose == "compaction"
    body["messages"].append({"role": "assistant", "content": "A summary."})
    assert asked_by("claude_code_compaction", body=body).declared.purpose == ""


def test_windows_of_codex_are_counted() -> None:
    first, second = asked_by("codex_compaction").declared, asked_by("codex_next_window").declared
    assert (first.window[-2:], second.window[-2:], first.thread) == (":0", ":1", second.thread)


@pytest.mark.parametrize(
    ("metadata", "purpose"),
    [
        ("{", ""),
        ("[1]", ""),
        ('{"request_kind": "turn"}', ""),
        ('{"request_kind": ["turn"]}', "side"),
        ('{"request_kind": "memory"}', "side"),
        ("[" * 100_000, ""),
        ("\udcff", ""),
    ],
)
def test_codexs_metadata_may_be_anything(metadata: str, purpose: str) -> None:
    headers = BODIES["codex_turn"]["headers"] | {"x-codex-turn-metadata": metadata}
    assert asked_by("codex_turn", headers=headers).declared.purpose == purpose


def test_a_long_name_is_cut() -> None:
    headers = {"X-Session-ID": "s" * 10_000}
    assert asked_by("mini_swe_agent", headers=headers).declared.session == "s" * 200
