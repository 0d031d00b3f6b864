"""The keys of this machine, and of the machines that it speaks with: a folder of small files.

    private   the secret half of this machine's pair, for its user alone
    public    the other half and a name: the line that others are to allow
    allowed   a line "KEY NAME ..." for each machine that is let in, and that is believed to be who it says

A name is what stands for the machine in an address: `tcp://NAME:7701`. Keys are CURVE's (Curve25519), 32
bytes, written in base64. A folder that others can look into is refused. `allowed` is read at each use, so a
machine that is allowed later is let in without a restart. Whoever changes the folder holds its `lock`.
"""

import base64
import binascii
import os
import re
import shlex
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.utils import z85

from trieline.common.errors import LockError
from trieline.common.file_lock import file_lock
from trieline.common.folders import make_private, whole_file
from trieline.common.regular_file import open_regular
from trieline.common.text import shown_value
from trieline.wire.addresses import is_this_machine
from trieline.wire.errors import KeysError

DEFAULT_FOLDER = "~/.config/trieline/keys"
PRIVATE, PUBLIC, ALLOWED, LOCK = "private", "public", "allowed", "lock"
# Changes take milliseconds.
LOCK_S = 30.0
# Larger files are none of ours.
MAX_FILE_BYTES = 1 << 20
KEY = re.compile(r"[A-Za-z0-9+/]{43}=")
NAME = re.compile(r"[A-Za-z0-9_.:%-]{1,255}")


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnKeys:
    """This machine's pair."""

    public: str
    secret: bytes
    name: str
    """What others call this machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """One that is allowed."""

    key: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join((self.key, *self.names))


class KeyFolder:
    """Reads at each call; keeps nothing."""

    def __init__(self, path: str | Path = "") -> None:
        """`path`: "" for the user's own folder. Raises KeysError: the user has no home."""
        try:
            self.path = Path(path or DEFAULT_FOLDER).expanduser().absolute()
        except RuntimeError as error:
            msg = f"expected a folder for keys, got none, and {DEFAULT_FOLDER} can't be found: {error}"
            raise KeysError(msg) from error
        self.flag = f" --keys {shlex.quote(str(path))}" if path else ""
        """What `trieline keys` is to be told so that it takes this folder."""

    def make(self, name: str = "") -> OwnKeys:
        """A new pair for this machine, called `name` by others, by default its host name.

        Raises:
            KeysError: there is a pair already, or the folder can't be made or is open to others.
        """
        name = check_name(name or socket.gethostname())
        if not zmq.has("curve"):
            msg = "expected a ZeroMQ with CURVE, got one without: install pyzmq's own wheel"
            raise KeysError(msg)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            make_private(self.path)
            public, secret = (z85.decode(half) for half in zmq.curve_keypair())
            with self._alone():
                if os.path.lexists(self.path / PRIVATE):
                    raise FileExistsError
                _write_closed(self.path / PUBLIC, f"{as_text(public)} {name}\n".encode())
                descriptor = os.open(self.path / PRIVATE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "w") as file:
                    file.write(f"{as_text(secret)}\n")
        except FileExistsError:
            msg = f"expected no keys of this machine in {self.path} yet, got a pair: it is kept"
            raise KeysError(msg) from None
        except OSError as error:
            msg = f"can't make keys in {self.path}: {error.strerror}"
            raise KeysError(msg) from error
        return OwnKeys(public=as_text(public), secret=secret, name=name)

    def own(self) -> OwnKeys:
        """This machine's pair. Raises KeysError: there is none, or others can read it."""
        text = self._read(PRIVATE, secret=True).strip()
        if not KEY.fullmatch(text):
            msg = f"expected a key of 44 characters in {self.path / PRIVATE}, got {len(text)} characters"
            raise KeysError(msg)
        secret = as_bytes(text)
        public = as_text(z85.decode(zmq.curve_public(z85.encode(secret))))
        _, _, name = self._read(PUBLIC).strip().partition(" ")
        return OwnKeys(public=public, secret=secret, name=check_name(name or socket.gethostname()))

    def allowed(self) -> list[Machine]:
        """Those that are let in, beside this machine itself. Raises KeysError."""
        if not (self.path / ALLOWED).exists():
            return []
        return [
            machine_of(line, where=f"{self.path / ALLOWED}, line {number}")
            for number, line in enumerate(self._read(ALLOWED).splitlines(), start=1)
            if line.strip() and not line.lstrip().startswith("#")
        ]

    def lets_in(self, key: str) -> bool:
        """Whether whoever has this key may connect. Raises KeysError."""
        return key == self.own().public or any(machine.key == key for machine in self.allowed())

    def key_of(self, host: str) -> str:
        """The key that the machine called `host` must have; this machine needs no entry for itself.

        Raises:
            KeysError: none is known. The message says what to do.
        """
        own = self.own()
        for machine in self.allowed():
            if host.lower() in machine.names:
                return machine.key
        if is_this_machine(host):
            return own.public
        msg = (
            f"no key is known for {host} in {self.path}: `trieline keys show{self.flag}` there prints it, "
            f"and `trieline keys allow KEY {host}{self.flag}` here takes it"
        )
        raise KeysError(msg)

    def allow(self, machine: Machine) -> bool:
        """Let a machine in. False: it was already.

        Raises:
            KeysError: one of its names has another key here, or the folder can't be written.
        """
        self._expect_folder()
        with self._alone():
            known = self.allowed()
            self._expect_free(machine, known)
            same = [other for other in known if other.key == machine.key]
            if same and {*machine.names} <= {name for other in same for name in other.names}:
                return False
            self._write([*known, machine])
        return True

    def remove(self, key_or_name: str) -> list[Machine]:
        """Let these machines in no more. Connections that they have go on until they break.

        Raises:
            KeysError: nobody is called so, or the folder can't be written.
        """
        self._expect_folder()
        with self._alone():
            known = self.allowed()
            gone = [m for m in known if key_or_name == m.key or key_or_name.lower() in m.names]
            if not gone:
                names = ", ".join(name for machine in known for name in machine.names) or "nobody is allowed"
                msg = f"expected a key or a name in {self.path / ALLOWED} ({names}), got {key_or_name!r}"
                raise KeysError(msg)
            self._write([machine for machine in known if machine not in gone])
        return gone

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process changes the folder inside the block. Raises KeysError."""
        with ExitStack() as held:
            try:
                held.enter_context(file_lock(self.path / LOCK, what="to change its keys", timeout_s=LOCK_S))
            except (LockError, OSError) as error:
                msg = f"can't change the keys in {self.path}: {error}"
                raise KeysError(msg) from error
            yield

    def _expect_free(self, machine: Machine, known: Sequence[Machine]) -> None:
        for other in known:
            taken = sorted({*machine.names} & {*other.names})
            if other.key != machine.key and taken:
                msg = (
                    f"expected a name without a key, got {taken[0]}, whose key is {other.key}: if it is no "
                    f"longer that, `trieline keys remove {taken[0]}{self.flag}` first"
                )
                raise KeysError(msg)

    def _write(self, machines: Sequence[Machine]) -> None:
        try:
            _write_closed(self.path / ALLOWED, "".join(f"{machine}\n" for machine in machines).encode())
        except OSError as error:
            msg = f"can't write {self.path / ALLOWED}: {error.strerror}"
            raise KeysError(msg) from error

    def _read(self, name: str, *, secret: bool = False) -> str:
        self._expect_folder()
        path = self.path / name
        try:
            with os.fdopen(open_regular(path), "rb") as file:
                found = os.fstat(file.fileno())
                if found.st_uid != os.geteuid():
                    msg = f"expected {path} to be of user {os.geteuid()}, got one of user {found.st_uid}"
                    raise KeysError(msg)
                if found.st_mode & (0o077 if secret else 0o022):
                    mode = stat.S_IMODE(found.st_mode)
                    msg = f"expected {path} to be closed to others, got mode {mode:o}: chmod 600 {path}"
                    raise KeysError(msg)
                return file.read(MAX_FILE_BYTES).decode()
        except FileNotFoundError:
            msg = (
                f"expected keys of this machine in {self.path}, found none: `trieline keys new{self.flag}` "
                "makes them"
            )
            raise KeysError(msg) from None
        except (OSError, UnicodeDecodeError) as error:
            msg = f"can't read {path}: {error}"
            raise KeysError(msg) from error

    def _expect_folder(self) -> None:
        try:
            if self.path.exists():
                make_private(self.path)
        except OSError as error:
            msg = f"can't use the keys in {self.path}: {error.strerror}"
            raise KeysError(msg) from error


def _write_closed(path: Path, data: bytes) -> None:
    """A whole file of this user's alone, whatever the umask would open. Raises OSError."""
    with whole_file(path) as scratch:
        scratch.write_bytes(data)
        scratch.chmod(0o600)


def machine_of(line: str, *, where: str) -> Machine:
    """Read "KEY NAME ...". Raises KeysError that says `where` it stands."""
    key, *names = line.split()
    try:
        as_bytes(key)
        return Machine(key=key, names=tuple(check_name(name) for name in names))
    except KeysError as error:
        msg = f"{where}: {error}"
        raise KeysError(msg) from None


def as_text(key: bytes) -> str:
    """As it is written for people: 44 characters, none of which means anything to a shell."""
    return base64.b64encode(key).decode()


def as_bytes(key: str) -> bytes:
    """As ZeroMQ takes it. Raises KeysError."""
    try:
        if not KEY.fullmatch(key):
            raise ValueError(key)
        return base64.b64decode(key, validate=True)
    except (ValueError, binascii.Error):
        msg = f"expected a key of 44 characters, got {shown_value(key)}"
        raise KeysError(msg) from None


def check_name(name: str) -> str:
    """A name as it is compared: without brackets, in lower case. Raises KeysError."""
    bare = name.strip("[]").lower()
    if not NAME.fullmatch(bare):
        msg = f"expected the name of a machine as it stands in an address, got {shown_value(name)}"
        raise KeysError(msg)
    return bare
