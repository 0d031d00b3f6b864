"""All APIs of one gateway: a conversation through several of them, and bodies of any shape."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.actors.gateway.bodies_sent import BODIES
from tests.actors.gateway.desk import calling, expect_faithful, tree_of
from tests.actors.gateway.mutated import mutated
from tests.actors.gateway.served import run, served
from trieline.actors.gateway.exchange import Closed

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")

SCHEMA = {"type": "object", "properties": {"word": {"type": "string"}}}
ASKED = "How tall is the tree?"


def test_a_session_may_change_its_api_in_the_middle(tmp_path: Path) -> None:
    async def play() -> None:
        async with served(tmp_path, replies=[calling(word="tree"), "It is 12 m.", "Twelve metres."]) as at:
            session = at.gateway.sessions.open(task_id="t")
            urls = at.gateway.server.urls(session)
            async with (
                openai.AsyncOpenAI(base_url=urls["openai_base_url"], api_key="k") as chat,
                anthropic.AsyncAnthropic(base_url=urls["anthropic_base_url"], api_key="k") as messages,
            ):
                function = {"name": "look_up", "parameters": SCHEMA}
                completion = await chat.chat.completions.create(
                    model="m",
                    messages=[{"role": "user", "content": ASKED}],
                    tools=[{"type": "function", "function": function}],
                )
                (call,) = completion.choices[0].message.tool_calls
                response = await chat.responses.create(
                    model="m",
                    input=[
                        {"role": "user", "content": ASKED},
                        {
                            "type": "function_call",
                            "call_id": call.id,
                            "name": "look_up",
                            "arguments": call.function.arguments,
                        },
                        {"type": "function_call_output", "call_id": call.id, "output": "12 m"},
                    ],
                    tools=[{"type": "function", **function}],
                )
                said: Any = [
                    {"role": "user", "content": ASKED},
                    {
                        "role": "assistant",
                        "content": [
                            {"type": "tool_use", "id": call.id, "name": "look_up", "input": {"word": "tree"}}
                        ],
                    },
                    {
                        "role": "user",
                        "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "12 m"}],
                    },
                    {"role": "assistant", "content": response.output_text},
                    {"role": "user", "content": "In words?"},
                ]
                asked = {"model": "m", "messages": said}
                asked["tools"] = [{"name": "look_up", "input_schema": SCHEMA}]
                counted = await messages.messages.count_tokens(**asked)
                message = await messages.messages.create(max_tokens=64, **asked)
            assert message.content[0].text == "Twelve metres."
            usage = message.usage
            assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens
            assert usage.cache_read_input_tokens > usage.input_tokens
            at.gateway.sessions.close(session, Closed(reason="", terminated=True))
            tree = tree_of(session)
            expect_faithful(tree, at.policy)
            assert tree.num_leaves == 1

    run(play())


@pytest.mark.parametrize("name", ["qwen_code", "codex_turn", "claude_code_turn"])
def test_no_body_is_a_fault_of_the_gateway(tmp_path: Path, name: str) -> None:
    sent = BODIES[name]
    bodies = [json.dumps(body | {"stream": False}) for body in mutated(sent["body"], nested=False)]

    async def play() -> None:
        statuses: Counter[int] = Counter()
        async with served(tmp_path) as at, aiohttp.ClientSession() as http:
            session = at.gateway.sessions.open()
            url = f"{at.url}/s/{session.opened.key}{sent['path']}"
            for body in random.Random(3).sample(bodies, 80):
                async with http.post(url, data=body.encode()) as response:
                    statuses[response.status] += 1
                    await response.read()
        assert statuses.keys() == {200, 400}
        assert min(statuses.values()) > 10

    run(play())
