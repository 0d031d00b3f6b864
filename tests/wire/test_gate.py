"""Keys on every link, over loopback TCP: who is let in, and what those are told who are not."""

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
import zmq

from tests.wire.key_folders import HERE, line_of, make_keys, on_loopback, pair, with_keys
from tests.wire.scripted_server import WAIT_S, client, prompt, serving
from tests.wire.test_trajectory_link import assignments, receiver, sender, tree
from tests.wire.weights_ends import publisher, subscriber, wait_for, weights
from trieline.common.complaints import Complaints
from trieline.wire import connection, sockets
from trieline.wire.addresses import free_loopback_address
from trieline.wire.codec import encode
from trieline.wire.config import LinksConfig
from trieline.wire.errors import KeysError
from trieline.wire.gate import secure_connected
from trieline.wire.keys import KeyFolder
from trieline.wire.messages import ActorHello, LatestRequest, Sampling, StatusRequest

AT_ONCE_S = 5.0
"""Whoever is refused is told within this."""
Link = Callable[[LinksConfig, LinksConfig, Path], None]


def trajectories(server: LinksConfig, asking: LinksConfig, folder: Path) -> None:
    async def play() -> None:
        async with sender(asking) as actor:
            given = await actor.next_assignment(WAIT_S)
            await actor.send(given.assignment_id, tree())
            await actor.flush(WAIT_S)

    with ExitStack() as closing:
        learner = receiver(closing, server)
        learner.offer(assignments(1))
        asyncio.run(play())
        assert learner.get(WAIT_S).assignment_id == 1


def generate_from(asking: LinksConfig) -> None:
    async def ask() -> None:
        async with client(asking) as policy:
            completion = await policy.generate(prompt(5, 6), Sampling(), timeout_s=WAIT_S)
            assert completion.token_ids.tolist() == [5, 6]

    asyncio.run(ask())


def generate(server: LinksConfig, asking: LinksConfig, folder: Path) -> None:
    with serving(server):
        generate_from(asking)


def weights_link(server: LinksConfig, asking: LinksConfig, folder: Path) -> None:
    with ExitStack() as closing:
        learner = publisher(closing, server)
        path = weights(folder, "one")
        expected = path.read_bytes()
        learner.publish(1, path)
        path.unlink()  # as on another machine
        policy_server = subscriber(closing, asking, folder)
        _, fetched = wait_for(policy_server.poll)
        assert fetched.read_bytes() == expected


LINKS: list[Link] = [trajectories, generate, weights_link]
every_link = pytest.mark.parametrize("link", LINKS)


@pytest.fixture
def plain(links: LinksConfig) -> LinksConfig:
    return on_loopback(links)


class Said:
    """What was logged, by whoever."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def wait_for(self, *words: str, within_s: float = AT_ONCE_S) -> str:
        deadline = time.monotonic() + within_s
        while True:
            for record in list(self._caplog.records):
                if all(word in record.getMessage() for word in words):
                    return record.getMessage()
            assert time.monotonic() < deadline, [r.getMessage() for r in self._caplog.records]
            time.sleep(0.01)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Said:
    caplog.set_level(logging.INFO)
    return Said(caplog)


@contextlib.contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """`act` goes on in a thread, and has ended well at the end."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert not failures


@every_link
def test_who_is_allowed_is_let_in(link: Link, plain: LinksConfig, tmp_path: Path) -> None:
    server, asking = pair(tmp_path)
    server.allow(line_of(asking))
    link(with_keys(plain, server), with_keys(plain, asking), tmp_path)


@every_link
def test_one_machine_needs_no_list(link: Link, plain: LinksConfig, tmp_path: Path) -> None:
    own = with_keys(plain, make_keys(tmp_path / "keys", "here"))
    link(own, own, tmp_path)


@every_link
def test_who_is_not_allowed_is_told_at_once_and_comes_in_when_it_is(
    link: Link, plain: LinksConfig, tmp_path: Path, said: Said
) -> None:
    server, asking = pair(tmp_path)
    key = asking.own().public
    with meanwhile(lambda: link(with_keys(plain, server), with_keys(plain, asking), tmp_path)):
        on_server = f"trieline keys allow {key} client --keys {asking.path}"
        said.wait_for("it does not know the key of this machine", f"on {HERE}, `{on_server}`")
        said.wait_for("refused for their key", f"{key} from {HERE}", f"keys allow {key} NAME --keys")
        server.allow(line_of(asking))


def test_a_wrong_key_of_the_other_end_is_reported_at_once(
    plain: LinksConfig, tmp_path: Path, said: Said
) -> None:
    server, asking = make_keys(tmp_path / "server", "server"), make_keys(tmp_path / "client", "client")
    server.allow(line_of(asking))
    impostor = line_of(make_keys(tmp_path / "other", "other"), HERE)
    asking.allow(impostor)
    with meanwhile(lambda: generate(with_keys(plain, server), with_keys(plain, asking), tmp_path)):
        said.wait_for(f"its key is not {impostor.key}", f"`trieline keys remove {HERE} --keys {asking.path}`")
        asking.remove(HERE)
        asking.allow(line_of(server, HERE))


@pytest.mark.parametrize("has_keys", ["server", "client"])
def test_an_end_without_keys_is_told_of_the_other(
    has_keys: str, plain: LinksConfig, tmp_path: Path, said: Said
) -> None:
    keyed = with_keys(plain, make_keys(tmp_path / "keys", "here"))
    server, asking = (keyed, plain) if has_keys == "server" else (plain, keyed)

    async def ask() -> None:
        async with client(asking) as policy:
            await asyncio.to_thread(said.wait_for, "refused", "keys" if asking is keyed else "wants keys")
            with pytest.raises(Exception, match=r"waited 0.2 s for its status .*\(refused: "):
                await policy.status(0.2)

    with serving(server):
        asyncio.run(ask())


def test_keys_that_are_missing_are_named_before_anything_starts(plain: LinksConfig, tmp_path: Path) -> None:
    nobody = with_keys(plain, KeyFolder(tmp_path / "none"))
    with ExitStack() as closing, pytest.raises(KeysError, match="found none: `trieline keys new --keys"):
        receiver(closing, nobody)
    alone = with_keys(LinksConfig(generate="tcp://192.0.2.1:7702"), make_keys(tmp_path / "keys", "here"))

    async def ask() -> None:
        async with client(alone):
            pass

    with pytest.raises(KeysError, match=r"no key is known for 192.0.2.1 .*keys allow KEY 192.0.2.1 --keys"):
        asyncio.run(ask())


def raw(context: zmq.Context[zmq.Socket[bytes]], address: str) -> zmq.Socket[bytes]:
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    dealer.connect(address)
    return dealer


def test_a_strangers_socket_gets_nothing_and_its_words_are_not_heard(
    plain: LinksConfig, tmp_path: Path
) -> None:
    server = make_keys(tmp_path / "keys", "here")
    keyed = with_keys(plain, server)
    words = {
        plain.trajectories: ActorHello(actor_id="stranger", capacity=4),
        plain.generate_addresses[0]: StatusRequest(request_id=1),
        plain.weights_fetch: LatestRequest(server_id="stranger"),
    }
    with ExitStack() as closing:
        learner, policy_server = receiver(closing, keyed), closing.enter_context(serving(keyed))
        learner.offer(assignments(1))
        weights_end = publisher(closing, keyed)
        weights_end.publish(1, weights(tmp_path, "one"))
        context = closing.enter_context(zmq.Context())
        dealers = []
        for address, word in words.items():
            dealers.append(closing.enter_context(raw(context, address)))
            dealers[-1].send_multipart(encode(word))
        # Three more know what CURVE is, and the server's key, but have one of their own that nobody allowed.
        for address, word in words.items():
            dealer = closing.enter_context(context.socket(zmq.DEALER))
            dealer.linger = 0
            secure_connected(dealer, address, str(stranger_of(server, tmp_path).path))
            dealer.connect(address)
            dealer.send_multipart(encode(word))
            dealers.append(dealer)
        poller = zmq.Poller()
        for dealer in dealers:
            poller.register(dealer, zmq.POLLIN)
        assert poller.poll(1000) == []
        assert learner.actors() == {}
        assert learner.malformed == weights_end.malformed == 0
        assert policy_server.pings == 0
        assert weights_end.loaded() == {}


def stranger_of(server: KeyFolder, tmp_path: Path) -> KeyFolder:
    path = tmp_path / "stranger"
    if path.exists():
        return KeyFolder(path)
    folder = make_keys(path, "stranger")
    folder.allow(line_of(server, HERE))
    return folder


def test_a_socket_with_keys_and_no_gate_lets_nobody_in(plain: LinksConfig, tmp_path: Path) -> None:
    own = make_keys(tmp_path / "keys", "here")
    address = free_loopback_address()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        sockets.bind(router, address, str(own.path))
        with context.socket(zmq.DEALER) as dealer:
            dealer.linger = 0
            sockets.connect(dealer, address, str(own.path))
            dealer.send(b"hello")
            assert router.poll(500) == 0


def test_after_an_address_of_another_machine_loopback_has_no_keys(
    plain: LinksConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    KeyFolder().make("here")
    # 192.0.2.0/24 is for documents: no machine has it.
    both = ("tcp://192.0.2.1:7702", *plain.generate_addresses)
    with serving(msgspec.structs.replace(plain, generate=both)) as server:
        assert server.server.address == both[1]
        generate_from(plain)


def test_a_connection_that_came_up_before_it_was_tried_again_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "RETRY_S", 0.5)
    address = free_loopback_address()
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer, context.socket(zmq.ROUTER) as router:
        dealer.linger = router.linger = 0
        dealer.reconnect_ivl = 10
        with socket.create_server((HERE, int(address.rpartition(":")[2]))) as ending:
            link = connection.Connection(dealer, address, "", Complaints("test"))
            for _ in range(connection.UNEXPLAINED):
                ending.accept()[0].close()
        sockets.bind(router, address)
        ups: list[bool] = []
        deadline = time.monotonic() + WAIT_S
        while not ups or time.monotonic() < deadline:
            assert ups or time.monotonic() < deadline
            link.monitor.poll(50)
            if found := [*link.news()]:
                ups += found
                deadline = time.monotonic() + 2 * connection.RETRY_S
        assert ups == [True]
        link.close()


class Tap:
    """Listens in on a TCP connection that it passes on."""

    def __init__(self, to: str) -> None:
        self.heard = bytearray()
        self._to = int(to.rpartition(":")[2])
        self._listener = socket.create_server((HERE, 0))
        self.address = f"tcp://{HERE}:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection((HERE, self._to))
                self._open += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.heard += data
                target.sendall(data)

    def close(self) -> None:
        for one in self._open:
            one.close()


@pytest.mark.parametrize("keyed", [False, True])
def test_what_passes_can_be_read_by_nobody(keyed: bool, plain: LinksConfig, tmp_path: Path) -> None:
    own = make_keys(tmp_path / "keys", "here")
    ends = with_keys(plain, own) if keyed else plain
    secret = list(range(1000, 1064))

    async def ask(asking: LinksConfig) -> None:
        async with client(asking) as policy:
            await policy.generate(prompt(*secret), Sampling(), timeout_s=WAIT_S)

    with serving(ends), contextlib.closing(Tap(plain.generate_addresses[0])) as tap:
        asyncio.run(ask(msgspec.structs.replace(ends, generate=tap.address)))
        assert len(tap.heard) > 4 * len(secret)
        assert (prompt(*secret).tobytes() in tap.heard) is not keyed
        assert (b"generate" in tap.heard) is not keyed
