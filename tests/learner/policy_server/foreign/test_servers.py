"""Policy servers over engines of others, as actors see them: real sockets on one side, HTTP on the other."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.learner.policy_server.foreign.asking import request
from tests.learner.policy_server.foreign.fake_engine import DEADLINE_S, FakeEngine
from tests.learner.policy_server.foreign.test_engine import wait_for, weights_file
from tests.learner.policy_server.test_in_flight_updates import Script
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.foreign.engine import ForeignEngine
from trieline.learner.policy_server.process import PolicyServer, StopFlag
from trieline.wire.addresses import free_loopback_address
from trieline.wire.config import LinksConfig
from trieline.wire.errors import PeerTimeoutError
from trieline.wire.generate_link import GenerateServer, PolicyClient
from trieline.wire.messages import Completion, Sampling
from trieline.wire.weights_link import WeightsPublisher, WeightsSubscriber

PROMPT = np.array([5, 6, 7], np.int32)


@pytest.fixture
def links() -> LinksConfig:
    return LinksConfig(
        generate=(free_loopback_address(), free_loopback_address()),
        weights_fetch=free_loopback_address(),
        heartbeat_s=0.2,
        peer_timeout_s=5.0,
    )


class Serving:
    """One server's loop in a thread."""

    def __init__(self, engine: ForeignEngine, links: LinksConfig, scratch: Path) -> None:
        self.sockets = GenerateServer(links)
        self.sockets.bind()
        self.subscriber = WeightsSubscriber(links, server_id=self.sockets.address, fetch_folder=scratch)
        self.subscriber.start()
        self.stop = StopFlag()
        server = PolicyServer(PolicyServerConfig(), engine, self.sockets, self.subscriber)
        self.thread = threading.Thread(target=server.serve, args=(self.stop,))
        self.thread.start()

    def close(self) -> None:
        self.stop.reason = "the end of the test"
        self.thread.join(DEADLINE_S)
        self.subscriber.close()
        self.sockets.close()


@pytest.fixture
def two(
    connect: Callable[..., ForeignEngine], links: LinksConfig, tmp_path: Path
) -> Iterator[dict[str, FakeEngine]]:
    """The fakes behind two servers, by the addresses of these."""
    fakes: dict[str, FakeEngine] = {}
    with ExitStack() as stack:
        for number in range(2):
            fake = stack.enter_context(FakeEngine())
            serving = Serving(connect(fake, request_timeout_s=2.0), links, tmp_path / f"fetch{number}")
            stack.callback(serving.close)
            fakes[serving.sockets.address] = fake
        yield fakes


def ask(links: LinksConfig, tasks: list[str], timeout_s: float = DEADLINE_S) -> list[Completion]:
    async def session() -> list[Completion]:
        client = PolicyClient(links)
        await client.start()
        try:
            for address in links.generate_addresses:
                alone = PolicyClient(msgspec.structs.replace(links, generate=address))
                await alone.start()
                await alone.status(DEADLINE_S)
                await alone.close()
            sampling = Sampling(max_tokens=2)
            asked = (client.generate(PROMPT, sampling, timeout_s=timeout_s, task=task) for task in tasks)
            return list(await asyncio.gather(*asked))
        finally:
            await client.close()

    return asyncio.run(session())


def versions_of(completions: list[Completion]) -> set[int]:
    return {version for one in completions for version in one.policy_versions.tolist()}


def asked_of(fake: FakeEngine) -> int:
    """Requests for tokens, the one at its start not counted."""
    return sum(path == "/inference/v1/generate" for path in fake.paths()) - 1


def test_branches_of_one_task_meet_in_one_engine(two: dict[str, FakeEngine], links: LinksConfig) -> None:
    ask(links, ["one"] * 6)
    assert sorted(map(asked_of, two.values())) == [0, 6]
    ask(links, [f"task {number}" for number in range(32)])
    assert min(map(asked_of, two.values())) > 4, "and those of other tasks elsewhere"


@pytest.mark.parametrize("failure", ["gone", "hangs"])
def test_what_one_engine_does_not_answer_another_is_asked(
    two: dict[str, FakeEngine], links: LinksConfig, failure: str
) -> None:
    bad, good = two.values()
    if failure == "gone":
        bad.__exit__()
    else:
        bad.holds = True
    tasks = [f"task {number}" for number in range(16)]
    assert len(ask(links, tasks)) == 16
    assert asked_of(good) >= 16


def test_where_all_fail_the_error_names_them(two: dict[str, FakeEngine], links: LinksConfig) -> None:
    for fake in two.values():
        fake.broken["/inference/v1/generate"] = 500, "out of memory"
    urls = "|".join(re.escape(fake.url) for fake in two.values())
    with pytest.raises(PeerTimeoutError, match=rf"failed, vLLM at ({urls}) answered .* 500: out of memory"):
        ask(links, ["one"], timeout_s=1.0)


def test_weights_that_an_engine_did_not_take_are_given_again(
    two: dict[str, FakeEngine], links: LinksConfig, tmp_path: Path
) -> None:
    first, second = two.values()
    first.broken["/collective_rpc"] = 500, "no memory"
    with closing(WeightsPublisher(links)) as publisher:
        publisher.start()
        publisher.publish(4, weights_file(tmp_path / "policy.safetensors"))
        wait_for(lambda: first.paths().count("/resume") >= 2)
        # Who has not taken them does not say so.
        wait_for(lambda: sorted(publisher.loaded().values()) == [-1, 4])
        del first.broken["/collective_rpc"]
        publisher.wait_loaded(4, DEADLINE_S)
        wait_for(lambda: list(publisher.loaded().values()) == [4, 4])
    assert versions_of(ask(links, ["a", "b", "c", "d"])) == {4}
    assert first.label.endswith("-4")
    assert second.label.endswith("-4")


def test_a_server_whose_engine_hangs_with_new_weights_answers_and_stops(
    connect: Callable[..., ForeignEngine], links: LinksConfig, tmp_path: Path
) -> None:
    links = msgspec.structs.replace(links, generate=free_loopback_address())
    with (
        FakeEngine() as fake,
        closing(connect(fake, request_timeout_s=600.0)) as engine,
        closing(Serving(engine, links, tmp_path / "fetch")) as serving,
        closing(WeightsPublisher(links)) as publisher,
    ):
        assert versions_of(ask(links, ["before"])) == {0}
        fake.hangs = {"/collective_rpc"}
        publisher.start()
        publisher.publish(4, weights_file(tmp_path / "policy.safetensors"))
        wait_for(lambda: fake.paths().count("/collective_rpc") == 2)
        # Its weights have the name of no version by now.
        with pytest.raises(PeerTimeoutError, match="weights 'weights that were not read to their end'"):
            ask(links, ["meanwhile"], timeout_s=1.0)
        serving.stop.reason = "the end of the test"
        serving.thread.join(DEADLINE_S)
        assert not serving.thread.is_alive()


def test_weights_that_wait_for_replies_wait_for_all_that_an_engine_was_given(
    fake: FakeEngine, connect: Callable[..., ForeignEngine], tmp_path: Path
) -> None:
    engine, stop = connect(fake), StopFlag()
    fake.holds = True
    script, weights = Script(stop), weights_file(tmp_path / "policy.safetensors")
    # The fake has two rows: one of the first three requests waits in it.
    script.messages = {
        turn: [request(number, max_tokens=2) for number in numbers]
        for turn, numbers in {1: [1, 2, 3], 8: [4]}.items()
    }

    def announced(turn: int) -> tuple[int, Path] | None:
        if turn == 20:
            fake.release()
        return (9, weights) if turn == 5 else None

    script.announces, script.until = announced, 4
    sockets: Any = script
    config = PolicyServerConfig(in_flight_updates=False)
    assert PolicyServer(config, engine, sockets, sockets).serve(stop) == 0
    versions = {number: one.policy_versions.tolist() for number, one in sorted(script.answers.items())}
    assert versions == {1: [0, 0], 2: [0, 0], 3: [0, 0], 4: [9, 9]}
    assert [version for _, version in script.loaded] == [9]
