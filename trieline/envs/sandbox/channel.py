"""The byte stream to a keeper: two pipes, or a connection to the engine. Every wait has a deadline."""

import os
import select
import socket
import struct
import time
from collections import deque
from typing import Protocol

CHUNK = 1 << 16
STDERR_KEPT = 4096


class ChannelClosedError(Exception):
    """The other end is gone. The message holds the end of what the keeper wrote to stderr."""


class ChannelTimeoutError(Exception):
    """The deadline passed before the other end had sent or taken everything."""


class Channel(Protocol):
    """A connection to one keeper. `deadline` is a time of `time.monotonic()`."""

    def send(self, data: bytes, deadline: float) -> None: ...

    def receive(self, count: int, deadline: float) -> bytes:
        """Exactly `count` bytes."""

    def hung_up(self, seconds: float = 0.0) -> bool:
        """Is the other end gone, at once or within `seconds`?"""

    def close(self) -> None: ...


def _wait(fd: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(fd, event)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(left * 1000):
        raise ChannelTimeoutError


def _hung_up(fd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    return bool(poll.poll(seconds * 1000))


class PipeChannel:
    """stdin, stdout and stderr of a child process."""

    def __init__(self, requests: int, replies: int, errors: int) -> None:
        self._requests, self._replies, self._errors = requests, replies, errors
        self._open = True
        for fd in (requests, replies, errors):
            os.set_blocking(fd, False)

    def send(self, data: bytes, deadline: float) -> None:
        unsent = memoryview(data)
        while unsent:
            try:
                unsent = unsent[os.write(self._requests, unsent) :]
            except BlockingIOError:
                _wait(self._requests, select.POLLOUT, deadline)
            except BrokenPipeError:
                raise ChannelClosedError(self._said()) from None

    def receive(self, count: int, deadline: float) -> bytes:
        parts = []
        while count:
            try:
                part = os.read(self._replies, min(count, CHUNK))
            except BlockingIOError:
                _wait(self._replies, select.POLLIN, deadline)
                continue
            if not part:
                raise ChannelClosedError(self._said())
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def hung_up(self, seconds: float = 0.0) -> bool:
        return not self._open or _hung_up(self._replies, seconds)

    def _said(self) -> str:
        try:
            return os.read(self._errors, CHUNK)[-STDERR_KEPT:].decode(errors="replace").strip()
        except OSError:
            return ""

    def close(self) -> None:
        if self._open:
            self._open = False
            for fd in (self._requests, self._replies, self._errors):
                os.close(fd)


class AttachChannel:
    """A container's stdin, stdout and stderr over one connection to the engine.

    The engine sends records of stream number (uint8), three zero bytes, length (uint32, big endian) and that
    many bytes (Docker Engine API, "Attach to a container", stream format).
    """

    RECORD = struct.Struct(">BxxxI")
    STDOUT = 1

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._connection.setblocking(False)
        self._raw = bytearray()
        self._stdout: deque[bytes] = deque()
        self._stderr = b""
        self._open = True

    def send(self, data: bytes, deadline: float) -> None:
        unsent = memoryview(data)
        while unsent:
            try:
                unsent = unsent[self._connection.send(unsent) :]
            except BlockingIOError:
                _wait(self._connection.fileno(), select.POLLOUT, deadline)
            except OSError:
                raise ChannelClosedError(self._said()) from None

    def receive(self, count: int, deadline: float) -> bytes:
        parts = []
        while count:
            while not self._stdout:
                self._receive_record(deadline)
            part = self._stdout.popleft()
            if len(part) > count:
                self._stdout.appendleft(part[count:])
                part = part[:count]
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _receive_record(self, deadline: float) -> None:
        self._fill(self.RECORD.size, deadline)
        stream, length = self.RECORD.unpack_from(self._raw)
        del self._raw[: self.RECORD.size]
        while length:
            self._fill(1, deadline)
            part = bytes(self._raw[:length])
            del self._raw[: len(part)]
            length -= len(part)
            if stream == self.STDOUT:
                self._stdout.append(part)
            else:
                self._stderr = (self._stderr + part)[-STDERR_KEPT:]

    def _fill(self, count: int, deadline: float) -> None:
        while len(self._raw) < count:
            try:
                part = self._connection.recv(CHUNK)
            except BlockingIOError:
                _wait(self._connection.fileno(), select.POLLIN, deadline)
                continue
            except OSError:
                part = b""
            if not part:
                raise ChannelClosedError(self._said())
            self._raw += part

    def hung_up(self, seconds: float = 0.0) -> bool:
        return not self._open or _hung_up(self._connection.fileno(), seconds)

    def _said(self) -> str:
        return self._stderr.decode(errors="replace").strip()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._connection.close()
