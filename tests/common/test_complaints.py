import logging

import pytest

from trieline.common import complaints
from trieline.common.complaints import Complaints


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as its only item."""
    now = [1000.0]
    monkeypatch.setattr("trieline.common.complaints.time.monotonic", lambda: now[0])
    return now


def test_each_kind_is_said_at_once_and_then_counted(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    made = Complaints("trajectories")
    for number in range(30_000):
        made.add("malformed messages", number)
    made.add("lost actors", "a")
    clock[0] += complaints.LOG_EVERY_S
    made.add("malformed messages", "the last")
    assert [r.getMessage() for r in caplog.records] == [
        "trajectories: 1 malformed messages, the latest: 0",
        "trajectories: 1 lost actors, the latest: a",
        "trajectories: 30000 malformed messages, the latest: the last",
    ]
    assert made.counts == {"malformed messages": 30_001, "lost actors": 1}


def test_what_a_stranger_wrote_is_shortened(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    Complaints("weights").add("malformed messages", "\x1b[2J\n" + "a" * 10_000)
    (message,) = (record.getMessage() for record in caplog.records)
    assert message.startswith("weights: 1 malformed messages, the latest: \\x1b[2J\\naaa")
    assert len(message) < 600


def test_good_news_have_a_level_of_their_own(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Complaints("trajectories").add("actors joined", "a", level=logging.INFO)
    assert [record.levelname for record in caplog.records] == ["INFO"]
