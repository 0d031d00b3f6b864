"""The record of open sessions: what a full disk, many sessions and late events do to it."""

import asyncio
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.actors.gateway.desk import Desk, run, user
from trieline.actors.errors import GatewayRecordError
from trieline.actors.gateway.errors import ConflictError
from trieline.actors.gateway.exchange import Closed, Opened, Rewarded
from trieline.actors.gateway.session_log import SessionLog


@contextmanager
def at_most(what: int, most: int) -> Iterator[None]:
    """A limit of this process."""
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


def test_a_disk_that_stays_full_leaves_the_record_as_it_was(tmp_path: Path) -> None:
    record = SessionLog(tmp_path)
    record.append("s", Opened(session_id="s", key="k", unix_s=0.0))
    size = (tmp_path / "s.session.jsonl").stat().st_size
    with at_most(resource.RLIMIT_FSIZE, size + 10):
        for _ in range(3):
            with pytest.raises(GatewayRecordError, match="wrote 10"):
                record.append("s", Rewarded(reward=0.25))
    assert (tmp_path / "s.session.jsonl").stat().st_size == size
    record.append("s", Rewarded(reward=0.5))
    (session,) = record.sessions()
    assert [rewarded.reward for rewarded in session.rewards] == [0.5]


def test_the_keys_in_a_record_are_for_its_user_alone(tmp_path: Path) -> None:
    SessionLog(tmp_path).append("s", Opened(session_id="s", key="k", unix_s=0.0))
    assert stat.S_IMODE((tmp_path / "s.session.jsonl").stat().st_mode) == 0o600


def test_sessions_of_one_tree_are_forgotten_together_whenever_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = SessionLog(tmp_path)
    group = ["a1", "a2", "a3"]
    for session_id in [*group, "b1"]:
        record.append(session_id, Opened(session_id=session_id, key="k", unix_s=0.0))
    unlink = Path.unlink
    removed: list[Path] = []

    def killed_after_one(path: Path, missing_ok: bool = False) -> None:
        if removed:
            raise KeyboardInterrupt
        removed.append(path)
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed_after_one)
        with pytest.raises(KeyboardInterrupt):
            record.forget(group)
    assert len([*tmp_path.glob("a*.jsonl")]) == 2
    assert [session.opened.session_id for session in SessionLog(tmp_path).sessions()] == ["b1"]
    assert [path.name for path in tmp_path.iterdir()] == ["b1.session.jsonl"]


def test_a_note_that_was_not_written_to_its_end_removes_nothing(tmp_path: Path) -> None:
    record = SessionLog(tmp_path)
    record.append("a1", Opened(session_id="a1", key="k", unix_s=0.0))
    for number, note in enumerate((b"", b'["a1"', b'["../a1"]', b'"a1"')):
        (tmp_path / f"a{number}.over.json").write_bytes(note)
    assert [session.opened.session_id for session in record.sessions()] == ["a1"]
    assert [path.name for path in tmp_path.iterdir()] == ["a1.session.jsonl"]


def test_open_sessions_hold_no_files_open(tmp_path: Path) -> None:
    desk = Desk(tmp_path, record=True)
    open_files = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
    with at_most(resource.RLIMIT_NOFILE, max(open_files) + 30):
        for _ in range(100):
            desk.sessions.open()
    assert len([*(tmp_path / "sessions").iterdir()]) == 100


def test_what_comes_for_a_session_that_is_over_is_refused_and_not_recorded(tmp_path: Path) -> None:
    """Its body was on the way while the session was ended."""
    desk = Desk(tmp_path, record=True)

    async def play() -> None:
        session = desk.sessions.open()
        await desk.ask(session, user("a"))
        desk.sessions.reward(session, 1.0)
        desk.sessions.close(session, Closed())
        while any((tmp_path / "sessions").iterdir()):
            await asyncio.sleep(0)
        with pytest.raises(ConflictError, match="is over"):
            desk.sessions.reward(session, 0.5)
        with pytest.raises(ConflictError, match="closed"):
            await desk.ask(session, user("b"))
        assert len(session.rewards) == 1

    run(play())
    assert [*(tmp_path / "sessions").iterdir()] == []
    assert len(desk.policy.prompts) == 1


def test_a_closed_session_that_waits_for_its_reward_asks_the_policy_no_more(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    async def play() -> None:
        session = desk.sessions.open()
        desk.sessions.close(session, Closed())
        with pytest.raises(ConflictError, match="closed"):
            await desk.ask(session, user("a"))

    run(play())
    assert desk.policy.prompts == []


def test_a_session_whose_opening_was_never_written_is_none(tmp_path: Path) -> None:
    (tmp_path / "s.session.jsonl").touch()
    assert [*SessionLog(tmp_path).sessions()] == []
    assert [*tmp_path.iterdir()] == []
