"""One form of a log line for all programs, which obeys nobody."""

import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trieline.common.program_log import file_handler, start_log


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = before
    root.setLevel(level)


def test_what_strangers_wrote_is_made_visible_in_messages_and_errors(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", shown := io.StringIO())
    start_log()
    root.warning("it said %s", "\x1b[2J\ud800")
    root.warning("asked %s", "http://ada:pw@host/")
    try:
        raise ValueError("\x1b]0;title\x07")
    except ValueError:
        root.exception("failed")
    assert r"WARNING" in shown.getvalue()
    assert r"root: it said \x1b[2J\ud800" + "\n" in shown.getvalue()
    assert "root: asked http://***@host/\n" in shown.getvalue()
    assert r"ValueError: \x1b]0;title\x07" + "\n" in shown.getvalue()


def test_stderr_is_looked_up_at_each_line(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    start_log()
    monkeypatch.setattr(sys, "stderr", live := io.StringIO())
    root.info("above the live view")
    assert "above the live view" in live.getvalue()


def test_a_file_is_utf_8_whatever_the_locale(root: logging.Logger, tmp_path: Path) -> None:
    handler = file_handler(tmp_path / "a.log")
    root.handlers[:] = [handler]
    root.warning("wörter")
    handler.close()
    assert "wörter" in (tmp_path / "a.log").read_text(encoding="utf-8")


def test_a_full_disk_is_said_once_and_ends_nothing(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", shown := io.StringIO())
    root.handlers[:] = [handler := file_handler(Path("/dev/full"))]
    for number in range(3):
        root.warning("line %d", number)
    handler.close()
    assert shown.getvalue() == "can't write /dev/full: No space left on device\n"
