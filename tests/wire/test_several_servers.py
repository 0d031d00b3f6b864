import asyncio
import contextlib
from pathlib import Path

import msgspec
import pytest
import zmq

from tests.wire.scripted_server import WAIT_S, ScriptedServer, client, prompt, refuse, serving, until
from trieline.wire.config import LinksConfig
from trieline.wire.errors import AddressError
from trieline.wire.generate_link import GenerateServer
from trieline.wire.messages import (
    Sampling,
)


@pytest.fixture
def two(links: LinksConfig, tmp_path: Path) -> tuple[LinksConfig, LinksConfig, LinksConfig]:
    """The links of a client of two servers, and those of each server."""
    addresses = (f"ipc://{tmp_path}/first", f"ipc://{tmp_path}/second")
    first, second = (msgspec.structs.replace(links, generate=address) for address in addresses)
    return msgspec.structs.replace(links, generate=addresses), first, second


Two = tuple[LinksConfig, LinksConfig, LinksConfig]


def test_requests_of_one_task_go_to_one_server_and_tasks_to_all(two: Two) -> None:
    async def act() -> None:
        async with client(two[0]) as policy:
            await until(lambda: all(server.usable() for server in policy._servers))
            asked = [
                policy.generate(prompt(task), Sampling(), timeout_s=WAIT_S, task=f"task {task}")
                for task in range(40)
                for _ in range(4)
            ]
            await asyncio.gather(*asked)

    with serving(two[1]) as first, serving(two[2]) as second:
        asyncio.run(act())
        tasks = [{int(request.prompt[0]) for request in server.requests} for server in (first, second)]
        assert not tasks[0] & tasks[1]
        assert min(len(one) for one in tasks) > 8
        assert len(first.requests) + len(second.requests) == 160


def test_requests_without_a_task_go_to_the_least_busy(two: Two) -> None:
    async def act(first: ScriptedServer, second: ScriptedServer) -> None:
        async with client(two[0]) as policy:
            await until(lambda: all(server.usable() for server in policy._servers))
            asked = [
                asyncio.create_task(policy.generate(prompt(1), Sampling(), timeout_s=WAIT_S))
                for _ in range(10)
            ]
            await until(lambda: len(first.requests) == len(second.requests) == 5)
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    with serving(two[1], lambda request: None) as first, serving(two[2], lambda request: None) as second:
        asyncio.run(act(first, second))


def test_what_a_dead_server_was_asked_another_answers(two: Two) -> None:
    async def act(first: ScriptedServer) -> None:
        async with client(two[0]) as policy:
            await until(lambda: all(server.usable() for server in policy._servers))
            asked = [
                asyncio.create_task(
                    policy.generate(prompt(task), Sampling(), timeout_s=WAIT_S, task=str(task))
                )
                for task in range(20)
            ]
            await until(lambda: len(first.requests) > 0)
            first.close()
            answers = await asyncio.gather(*asked)
            assert [answer.token_ids.tolist() for answer in answers] == [[task] for task in range(20)]

    with serving(two[2]), contextlib.closing(ScriptedServer(two[1], lambda request: None)) as first:
        asyncio.run(act(first))


def test_none_of_several_servers_is_waited_for(two: Two) -> None:
    async def act() -> None:
        async with client(two[0]) as policy:
            assert (await policy.status(WAIT_S)).policy_version == 3
            asked = [
                policy.generate(prompt(task), Sampling(), timeout_s=WAIT_S, task=str(task))
                for task in range(20)
            ]
            assert len(await asyncio.gather(*asked)) == 20

    with serving(two[2]):
        asyncio.run(act())


@pytest.mark.parametrize("kind", ["overloaded", "stopping", "failed"])
def test_what_one_server_refuses_for_now_another_is_asked_for(kind: str, two: Two) -> None:
    async def act() -> None:
        async with client(two[0]) as policy:
            await until(lambda: all(server.usable() for server in policy._servers))
            asked = [
                policy.generate(prompt(task), Sampling(), timeout_s=WAIT_S, task=str(task))
                for task in range(20)
            ]
            await asyncio.gather(*asked)

    with serving(two[1], refuse(kind)) as full, serving(two[2]) as free:
        asyncio.run(act())
        assert len(full.requests) > 0
        assert len(free.requests) == 20


def test_a_silent_server_of_several_is_left_for_another(two: Two) -> None:
    links = msgspec.structs.replace(two[0], peer_timeout_s=0.5)

    async def act() -> None:
        async with client(links) as policy:
            await until(lambda: all(server.usable() for server in policy._servers))
            asked = [
                policy.generate(prompt(task), Sampling(), timeout_s=WAIT_S, task=str(task))
                for task in range(20)
            ]
            assert len(await asyncio.gather(*asked)) == 20

    with zmq.Context() as context, context.socket(zmq.ROUTER) as router, serving(two[2]):
        router.linger = 0
        router.bind(two[1].generate_addresses[0])
        asyncio.run(act())


def test_a_server_binds_the_first_address_that_is_free(two: Two) -> None:
    with contextlib.ExitStack() as closing:
        servers = [GenerateServer(two[0]) for _ in range(3)]
        for server in servers[:2]:
            closing.callback(server.close)
            server.bind()
        assert tuple(server.address for server in servers[:2]) == two[0].generate
        with pytest.raises(AddressError, match="another process listens there"):
            servers[2].bind()
