"""The gateway as its clients meet it: real SDKs, real sockets, and everything that goes wrong on those."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI, AuthenticationError, BadRequestError, RateLimitError

from tests.actors.gateway.desk import calling, expect_faithful, tree_of
from tests.actors.gateway.served import Served, run, served
from trieline.actors.gateway.config import GatewayConfig
from trieline.wire.errors import WireError

ASKED: list[Any] = [{"role": "user", "content": "How tall is the tree?"}]
TOOL: Any = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


async def opened(at: Served, **fields: Any) -> dict[str, Any]:
    async with aiohttp.ClientSession() as http, http.post(f"{at.url}/sessions", json=fields) as response:
        assert response.status == 201, await response.text()
        found: dict[str, Any] = await response.json()
        return found


async def post(at: Served, path: str, body: Any, **headers: str) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{at.url}{path}", json=body, headers=headers) as response,
    ):
        return response.status, await response.json()


def client_of(session: dict[str, Any], *, in_path: bool = False, retries: int = 0) -> AsyncOpenAI:
    url = session["openai_base_url"] if in_path else session["openai_base_url"].split("/s/")[0] + "/v1"
    return AsyncOpenAI(api_key="any" if in_path else session["key"], base_url=url, max_retries=retries)


@pytest.mark.parametrize("in_path", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_of_the_openai_sdk_is_one_tree(tmp_path: Path, in_path: bool, stream: bool) -> None:
    async def play() -> None:
        async with served(tmp_path, replies=[calling(word="tree"), "It is 12 m tall."]) as at:
            session = await opened(at, task_id="t1", metadata={"who": "me"})
            async with client_of(session, in_path=in_path) as client:
                chat = [*ASKED]
                for _ in range(2):
                    message = await _reply(client, chat, stream=stream)
                    chat.append(message)
                    for call in message.get("tool_calls") or []:
                        chat.append({"role": "tool", "tool_call_id": call["id"], "content": "12 m"})
            assert chat[-1]["content"] == "It is 12 m tall."
            status, told = await post(at, f"/sessions/{session['session_id']}/close", {"reward": 0.5})
            assert (status, told["closed"], told["rewards"]) == (200, True, [0.5])
            await at.gateway.sessions.finish()
            assert at.ended[0].opened.task_id == "t1"
            tree = tree_of(*at.ended)
            expect_faithful(tree, at.policy)
            assert tree.num_leaves == 1
            assert tree.sequence_return(0) == 0.5

    run(play())


async def _reply(client: AsyncOpenAI, chat: list[Any], *, stream: bool) -> dict[str, Any]:
    if not stream:
        made = await client.chat.completions.create(model="m", messages=chat, tools=[TOOL])
        return made.choices[0].message.model_dump(exclude_none=True)
    async with client.chat.completions.stream(model="m", messages=chat, tools=[TOOL]) as events:
        async for _ in events:
            pass
        final = await events.get_final_completion()
    message = final.choices[0].message.model_dump(exclude_none=True)
    for call in message.get("tool_calls") or []:
        call["function"].pop("parsed_arguments", None)
    message.pop("parsed", None)
    return message


def test_errors_are_the_sdks_own(tmp_path: Path) -> None:
    async def play() -> None:
        async with served(tmp_path, config=GatewayConfig(port=0, requests=1, retry_after_s=1.0)) as at:
            session = await opened(at)
            async with client_of(session) as client:
                with pytest.raises(BadRequestError, match="logit_bias"):
                    await client.chat.completions.create(model="m", messages=ASKED, logit_bias={"5": 1})
                with pytest.raises(BadRequestError) as full:
                    await client.chat.completions.create(
                        model="m", messages=[{"role": "user", "content": "x " * 300_000}]
                    )
                assert full.value.code == "context_length_exceeded"
                at.policy.gate = asyncio.Event()
                first = asyncio.create_task(client.chat.completions.create(model="m", messages=ASKED))
                await asyncio.sleep(0.1)
                with pytest.raises(RateLimitError) as refused:
                    await client.chat.completions.create(model="m", messages=[*ASKED, *ASKED])
                assert refused.value.response.headers["Retry-After"] == "1"
                at.policy.gate.set()
                await first
            async with client_of({**session, "key": "other"}) as stranger:
                with pytest.raises(AuthenticationError, match="open session"):
                    await stranger.chat.completions.create(model="m", messages=ASKED)

    run(play())


def test_a_client_that_comes_again_after_429_is_served(tmp_path: Path) -> None:
    async def play() -> None:
        async with served(tmp_path, config=GatewayConfig(port=0, requests=1, retry_after_s=1.0)) as at:
            session = await opened(at)
            at.policy.gate = asyncio.Event()
            async with client_of(session, retries=3) as client:
                first = asyncio.create_task(client.chat.completions.create(model="m", messages=ASKED))
                await asyncio.sleep(0.1)
                second = asyncio.create_task(
                    client.chat.completions.create(model="m", messages=[*ASKED, *ASKED])
                )
                await asyncio.sleep(0.3)
                at.policy.gate.set()
                await asyncio.gather(first, second)
            assert len(at.gateway.sessions.of_key(session["key"]).exchanges) == 2

    run(play())


@pytest.mark.parametrize("stream", [False, True])
def test_what_was_sampled_for_a_client_that_left_is_kept_and_told_when_it_comes_back(
    tmp_path: Path, stream: bool
) -> None:
    async def play() -> None:
        async with served(tmp_path) as at:
            session = await opened(at)
            at.policy.gate = asyncio.Event()
            body = {"model": "m", "messages": ASKED, "stream": stream}
            with pytest.raises((TimeoutError, asyncio.TimeoutError)):
                async with asyncio.timeout(0.3):
                    await post(at, f"/s/{session['key']}/v1/chat/completions", body)
            await asyncio.sleep(0.1)
            at.policy.gate.set()
            await asyncio.sleep(0.2)
            kept = at.gateway.sessions.of_key(session["key"])
            assert len(kept.exchanges) == 1
            if not stream:
                again = dict(reversed([*body.items(), ("user", "another name")]))  # it says the same
                _, told = await post(at, f"/s/{session['key']}/v1/chat/completions", again)
                assert told["choices"][0]["message"]["content"] == "reply 1"
                assert len(kept.exchanges) == 1

    run(play())


def test_a_reply_that_is_made_as_its_client_leaves_is_told_when_it_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        async with served(tmp_path) as at:
            session = await opened(at)
            reply = at.gateway.sessions.reply

            async def made_too_late(*args: Any) -> Any:
                """The connection is lost when there is a reply, and nothing of it was sent."""
                (handler,) = (
                    task for task in asyncio.all_tasks() if "_handle_request" in repr(task.get_coro())
                )
                making = asyncio.current_task()
                assert making is not None
                making.add_done_callback(lambda _: handler.cancel())
                return await reply(*args)

            monkeypatch.setattr(at.gateway.sessions, "reply", made_too_late)
            body, path = {"model": "m", "messages": ASKED}, f"/s/{session['key']}/v1/chat/completions"
            with pytest.raises(aiohttp.ClientError):
                await post(at, path, body)
            monkeypatch.undo()
            _, told = await post(at, path, body)
            assert told["choices"][0]["message"]["content"] == "reply 1"
            assert len(at.gateway.sessions.of_key(session["key"]).exchanges) == 1

    run(play())


def test_a_slow_policy_is_waited_for_with_signs_of_life(tmp_path: Path) -> None:
    async def play() -> None:
        async with served(tmp_path, config=GatewayConfig(port=0, keep_alive_s=0.05)) as at:
            session = await opened(at)
            at.policy.gate = asyncio.Event()
            asyncio.get_running_loop().call_later(0.4, at.policy.gate.set)
            body = {"model": "m", "messages": ASKED, "stream": True}
            url = f"{session['openai_base_url']}/chat/completions"
            async with aiohttp.ClientSession() as http, http.post(url, json=body) as response:
                text = await response.text()
            assert text.count(": waiting") >= 2
            assert text.endswith("data: [DONE]\n\n")

    run(play())


def test_a_policy_server_that_dies_in_mid_stream_ends_it_with_an_error(tmp_path: Path) -> None:
    async def play() -> None:
        async with served(tmp_path, config=GatewayConfig(port=0, keep_alive_s=0.05)) as at:
            session = await opened(at)
            at.policy.gate, at.policy.error = asyncio.Event(), WireError("the server is gone")
            asyncio.get_running_loop().call_later(0.2, at.policy.gate.set)
            body = {"model": "m", "messages": ASKED, "stream": True}
            url = f"{session['openai_base_url']}/chat/completions"
            async with aiohttp.ClientSession() as http, http.post(url, json=body) as response:
                last = (await response.text()).strip().splitlines()[-1]
            assert "the server is gone" in json.loads(last.removeprefix("data: "))["error"]["message"]
            assert at.gateway.sessions.of_key(session["key"]).exchanges == []

    run(play())


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/sessions", {"task_id": 5}, 400),
        ("/sessions", [], 400),
        ("/sessions", {"task_id": "t" * 257}, 400),
        ("/sessions", {"level": -1}, 400),
        ("/sessions", {"level": 2**70}, 400),
        ("/sessions", {"metadata": {"note": "n" * 4097}}, 400),
        ("/sessions", {"metadata": {str(number): "" for number in range(65)}}, 400),
        ("/sessions/none", None, 404),
        ("/sessions/ID/rewards", {"reward": "much"}, 400),
        ("/sessions/ID/rewards", {"reward": 1e300}, 400),
        ("/sessions/ID/rewards", {"reward": 1, "request_id": "none"}, 400),
        ("/sessions/ID/close", {"cause": "bad luck"}, 400),
        ("/sessions/ID/close", {"cause": "sandbox", "reward": 1}, 400),
        ("/s/KEY/step", {"action": "go"}, 404),
        ("/v2/chat/completions", {}, 404),
    ],
)
def test_what_is_wrong_is_told_and_changes_nothing(tmp_path: Path, path: str, body: Any, status: int) -> None:
    async def play() -> None:
        async with served(tmp_path) as at:
            session = await opened(at)
            path_ = path.replace("ID", session["session_id"]).replace("KEY", session["key"])
            found, told = await post(at, path_, body)
            assert found == status
            assert "expected" in told["error"]["message"]
            kept = at.gateway.sessions.of_key(session["key"])
            assert (kept.rewards, kept.closed, kept.exchanges) == ([], None, [])

    run(play())


def test_a_session_is_closed_once_and_its_key_opens_nothing_then(tmp_path: Path) -> None:
    async def play() -> None:
        async with served(tmp_path) as at:
            session = await opened(at)
            body = {"model": "m", "messages": ASKED}
            await post(at, "/v1/chat/completions", body, Authorization=f"Bearer {session['key']}")
            close = f"/sessions/{session['session_id']}/close"
            assert (await post(at, close, {}))[0] == 200
            assert (await post(at, close, {}))[0] == 409
            status, _ = await post(at, "/v1/chat/completions", body, **{"x-api-key": session["key"]})
            assert status == 401
            assert (await post(at, f"/sessions/{session['session_id']}/rewards", {"reward": 1}))[0] == 200
            assert (await post(at, close, {}))[0] == 404

    run(play())


def test_sessions_open_by_themselves_online(tmp_path: Path) -> None:
    config = GatewayConfig(port=0, online=True, idle_timeout_s=1.5)

    async def play() -> None:
        async with served(tmp_path, config=config) as at:
            body = {"model": "m", "messages": ASKED}
            for _ in range(2):
                assert (await post(at, "/v1/chat/completions", body, Authorization="Bearer mine"))[0] == 200
            session = at.gateway.sessions.of_key("mine")
            assert len(session.exchanges) == 2
            at.gateway.sessions.reward(session, 1.0)
            await asyncio.sleep(3)
            assert at.ended == [session]
            assert session.closed is not None
            assert session.closed.cause == ""

    run(play())


def test_a_fault_of_the_gateway_is_logged_without_the_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def play() -> None:
        async with served(tmp_path) as at:
            session = await opened(at)
            at.policy.error = RuntimeError("boom")
            async with (
                aiohttp.ClientSession() as http,
                http.post(
                    f"{at.url}/s/{session['key']}/v1/chat/completions", json={"model": "m", "messages": ASKED}
                ) as response,
            ):
                assert response.status == 500
            assert "POST /s/{key}/v1/chat/completions" in caplog.text
            assert "boom" in caplog.text
            assert session["key"] not in caplog.text

    run(play())


def test_a_key_guards_who_opens_sessions(tmp_path: Path) -> None:
    async def play() -> None:
        async with served(tmp_path, config=GatewayConfig(port=0, admin_key="secret")) as at:
            assert (await post(at, "/sessions", {}))[0] == 401
            assert (await post(at, "/sessions", {}, Authorization="Bearer secret"))[0] == 201

    run(play())


def test_a_key_guards_sessions_that_open_by_themselves(tmp_path: Path) -> None:
    async def play() -> None:
        config = GatewayConfig(port=0, admin_key="secret", online=True)
        async with served(tmp_path, config=config) as at:
            body = {"model": "m", "messages": ASKED}
            for key, expected in (
                ("mine", 401), ("secretive", 401), ("secre", 401), ("é", 401), ("secret", 200),
                ("secret/worker-7", 200),
            ):  # fmt: skip
                status, told = await post(at, "/v1/chat/completions", body, Authorization=f"Bearer {key}")
                assert status == expected, (key, told)
            status, told = await post(at, "/s/mine/v1/chat/completions", body)
            assert status == 401
            assert "the gateway's admin_key, alone or as KEY/NAME" in told["error"]["message"]

    run(play())


@pytest.mark.parametrize("path", ["/sessions", "/v1/chat/completions"])
def test_a_key_that_is_no_text_opens_nothing(tmp_path: Path, path: str) -> None:
    async def play() -> None:
        body = json.dumps({"model": "m", "messages": ASKED}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n".encode()
        config = GatewayConfig(port=0, admin_key="secret", online=True)
        async with served(tmp_path, config=config, record=True) as at:
            for key in (b"\xff", b"secret/\xff") if path.startswith("/v1") else (b"\xff",):
                reader, writer = await asyncio.open_connection("127.0.0.1", at.gateway.server.port)
                writer.write(head + b"Authorization: Bearer " + key + b"\r\n\r\n" + body)
                assert b" 401 " in await reader.readline()
                writer.close()

    run(play())


def test_a_body_over_the_limit_is_refused(tmp_path: Path) -> None:
    async def play() -> None:
        async with served(tmp_path, config=GatewayConfig(port=0, max_body_bytes=10_000)) as at:
            session = await opened(at)
            body = {"model": "m", "messages": [{"role": "user", "content": "x" * 20_000}]}
            status, told = await post(at, f"/s/{session['key']}/v1/chat/completions", body)
            assert status == 413
            assert "at most 10000 bytes" in told["error"]["message"]

    run(play())


def test_a_thousand_sessions_at_once(tmp_path: Path) -> None:
    async def play() -> None:
        async with served(tmp_path) as at:
            sessions = [at.gateway.sessions.open() for _ in range(1000)]
            body = {"model": "m", "messages": ASKED}
            connector = aiohttp.TCPConnector(limit=200)
            async with aiohttp.ClientSession(connector=connector) as http:

                async def ask(key: str) -> int:
                    async with http.post(f"{at.url}/s/{key}/v1/chat/completions", json=body) as response:
                        return response.status

                found = await asyncio.gather(*(ask(s.opened.key) for s in sessions))
            assert set(found) == {200}
            assert [len(s.exchanges) for s in sessions] == [1] * 1000

    run(play())
