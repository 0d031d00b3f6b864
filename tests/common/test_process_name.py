"""Processes of two containers often have the same pid, and copies of one image the same host name."""

import os
import socket

import pytest

from trieline.common.process_name import new_process_name


def test_processes_of_equal_pid_and_host_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(socket, "gethostname", lambda: "container")
    names = {new_process_name() for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith("container-1-") for name in names)


def test_a_long_host_name_leaves_room_for_what_tells_processes_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "h" * 1000)
    first, second = new_process_name(), new_process_name()
    assert first != second
    assert len(first) < 255, "the longest identity of a ZeroMQ socket"
