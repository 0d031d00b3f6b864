import contextlib
from pathlib import Path

import msgspec
import pytest
import zmq

from tests.wire.weights_ends import WAIT_S, load, publisher, subscriber, wait_for, weights
from trieline.wire.codec import encode
from trieline.wire.config import LinksConfig
from trieline.wire.errors import PeerTimeoutError
from trieline.wire.messages import (
    WeightsLoaded,
)
from trieline.wire.weights_link import WeightsPublisher, WeightsSubscriber


def test_a_resumed_learner_may_begin_at_an_older_version(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    path = weights(tmp_path, "one")
    first = WeightsPublisher(links)
    first.start()
    server = subscriber(closing, links, tmp_path)
    first.publish(12, path)
    assert wait_for(server.poll) == (12, path)
    server.report_loaded(12, 0.1)
    first.wait_loaded(12, WAIT_S)
    first.close()
    second = publisher(closing, links)
    wait_for(lambda: second.loaded() == {"server": 12})
    older = weights(tmp_path, "two", seed=2)
    second.publish(10, older)
    assert wait_for(server.poll) == (10, older)
    # 12 was loaded from the first learner, and is no proof that 10 or more was from the second.
    with pytest.raises(PeerTimeoutError, match="server serves 12"):
        second.wait_loaded(10, 0.3)
    server.report_loaded(10, 0.1)
    second.wait_loaded(10, WAIT_S)


def test_wait_loaded_names_the_late(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    learner = publisher(closing, links)
    with pytest.raises(PeerTimeoutError, match="to load version 1: no policy server lives"):
        learner.wait_loaded(1, 0.1)
    quick = subscriber(closing, links, tmp_path, "quick")
    late = subscriber(closing, links, tmp_path, "late")
    load(learner, 1, weights(tmp_path, "one"), quick, late)
    learner.wait_loaded(1, WAIT_S)
    assert learner.loaded() == {"quick": 1, "late": 1}
    learner.publish(2, weights(tmp_path, "two"))
    wait_for(quick.poll)
    quick.report_loaded(2, 0.1)
    wait_for(lambda: learner.loaded() == {"quick": 2, "late": 1})
    with pytest.raises(PeerTimeoutError, match="to load version 2: late serves 1"):
        learner.wait_loaded(2, 0.1)
    wait_for(late.poll)
    late.report_loaded(2, 0.1)
    learner.wait_loaded(2, WAIT_S)


def test_a_server_that_starts_holds_nobody_up(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    learner = publisher(closing, links)
    quick = subscriber(closing, links, tmp_path, "quick")
    load(learner, 1, weights(tmp_path, "one"), quick)
    subscriber(closing, links, tmp_path, "starting")
    wait_for(lambda: learner.loaded() == {"quick": 1, "starting": -1})
    learner.wait_loaded(1, 0.0)


def test_a_stranger_is_not_waited_for(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    learner = publisher(closing, links)
    server = subscriber(closing, links, tmp_path)
    load(learner, 1, weights(tmp_path, "one"), server)
    context = closing.enter_context(zmq.Context())
    evil = closing.enter_context(context.socket(zmq.DEALER))
    evil.linger = 0
    evil.connect(links.weights_fetch)
    evil.send_multipart(encode(WeightsLoaded(server_id="evil", policy_version=0, seconds=0.1)))
    wait_for(lambda: learner.loaded() == {"server": 1, "evil": 0})
    learner.wait_loaded(1, 0.0)


def test_a_server_that_stays_late_is_left_behind_until_it_has_caught_up(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    links = msgspec.structs.replace(links, peer_timeout_s=1.0)
    learner = publisher(closing, links)
    quick = subscriber(closing, links, tmp_path, "quick")
    late = subscriber(closing, links, tmp_path, "late")
    load(learner, 1, weights(tmp_path, "one"), quick, late)
    learner.publish(2, weights(tmp_path, "two"))
    wait_for(quick.poll)
    quick.report_loaded(2, 0.1)
    learner.wait_loaded(2, WAIT_S)
    assert "policy server late still serves version 1 1 s after 2 was published" in caplog.text
    # It is not waited for again.
    learner.publish(3, weights(tmp_path, "three"))
    wait_for(quick.poll)
    quick.report_loaded(3, 0.1)
    wait_for(lambda: learner.loaded() == {"quick": 3, "late": 1})
    learner.wait_loaded(3, 0.0)
    wait_for(lambda: late.poll() == (3, tmp_path / "three"))
    late.report_loaded(3, 0.1)
    wait_for(lambda: learner.loaded() == {"quick": 3, "late": 3})
    learner.publish(4, weights(tmp_path, "four"))
    wait_for(quick.poll)
    quick.report_loaded(4, 0.1)
    wait_for(lambda: learner.loaded() == {"quick": 4, "late": 3})
    with pytest.raises(PeerTimeoutError, match="late serves 3"):
        learner.wait_loaded(4, 0.0)


def test_a_server_that_has_gone_is_forgotten_at_once(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    learner = publisher(closing, links)
    stays = subscriber(closing, links, tmp_path, "stays")
    with contextlib.closing(WeightsSubscriber(links, server_id="goes", fetch_folder=tmp_path / "x")) as goes:
        goes.start()
        load(learner, 1, weights(tmp_path, "one"), stays, goes)
    load(learner, 2, weights(tmp_path, "two"), stays)
    # Long before the 20 s after which a silent one counts as lost.
    learner.wait_loaded(2, WAIT_S)


def test_where_there_is_no_learner_a_server_is_alone(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    alone = subscriber(closing, links, tmp_path)
    assert not alone.is_alone()
    wait_for(alone.is_alone)
    learner = publisher(closing, links)
    wait_for(lambda: not alone.is_alone())
    # As long as it has announced nothing.
    wait_for(lambda: learner.loaded() == {"server": -1})
    assert not alone.is_alone()


def test_a_server_that_started_with_the_version_counts(
    links: LinksConfig, closing: contextlib.ExitStack, tmp_path: Path
) -> None:
    learner, server = publisher(closing, links), subscriber(closing, links, tmp_path)
    server.report_loaded(0, 0.0)
    learner.wait_loaded(0, WAIT_S)
    with pytest.raises(PeerTimeoutError):
        learner.wait_loaded(1, 0.1)
