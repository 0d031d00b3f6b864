"""Names of files as git writes them in a diff, and which of them a patch may touch.

Git quotes a name in the manner of C where it holds a control character, a double quote, a backslash or
(unless told otherwise) a byte that is not ASCII. Names are bytes; as text they are `os.fsdecode`d, so that
one that is not UTF-8 comes back as it was.
"""

import os
import re

from trieline.common.text import shortened
from trieline.envs.errors import PatchError

MOST_PATH_BYTES = 4096
MOST_NAME_BYTES = 255
"""What Linux and its file systems take."""

DEV_NULL = b"/dev/null"
"""In place of a name: there is no file on this side."""

_ESCAPES = {b"a": b"\a", b"b": b"\b", b"t": b"\t", b"n": b"\n", b"v": b"\v", b"f": b"\f", b"r": b"\r"}
_ESCAPES |= {b'"': b'"', b"\\": b"\\"}
_ESCAPE = re.compile(rb"\\([abtnvfr\"\\]|[0-3][0-7]{2})")
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_NEEDS_NO_QUOTES = re.compile(rb"[A-Za-z0-9._/+=,@%~^-]+")

# HFS+ leaves these out of a name when it compares (git's utf8.c, next_hfs_char).
_NOT_COMPARED = dict.fromkeys(
    [*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF], None
)


def quoted_at_start(text: bytes) -> tuple[bytes, bytes] | None:
    """The name in the quoted string that `text` begins with, and what follows it; None: there is none."""
    match = _QUOTED.match(text)
    if match is None:
        return None
    inner = match[1]
    if b"\\" in _ESCAPE.sub(b"", inner):
        return None
    name = _ESCAPE.sub(lambda m: _ESCAPES.get(m[1]) or bytes([int(m[1], 8)]), inner)
    return name, text[match.end() :]


def as_written(name: bytes) -> bytes:
    """`name` as git reads it back in every line of a header: in quotes unless it is plain."""
    if _NEEDS_NO_QUOTES.fullmatch(name):
        return name
    plain = {ord('"'): b'\\"', ord("\\"): b"\\\\"}
    return b'"' + b"".join(plain.get(b) or _shown(b) for b in name) + b'"'


def _shown(byte: int) -> bytes:
    return bytes([byte]) if 0x20 <= byte < 0x7F else b"\\%03o" % byte


def checked_path(name: bytes) -> str:
    """`name`, relative to the top of the repository, as text.

    Raises:
        PatchError: `bad_path`, `absolute_path`, `parent_path` or `git_folder`: a patch may not touch it.
    """
    path = os.fsdecode(name)
    shown = repr(shortened(path))
    parts = name.split(b"/")
    if b"\0" in name or len(name) > MOST_PATH_BYTES:
        cause, msg = "bad_path", f"expected {MOST_PATH_BYTES:,} bytes or fewer and no NUL, got {shown}"
    elif name.startswith(b"/"):
        cause, msg = "absolute_path", f"expected a path within the repository, got {shown}"
    elif b".." in parts:
        cause, msg = "parent_path", f"expected a path without '..', got {shown}"
    elif any(is_git_folder(part) for part in re.split(r"[/\\]", path)):
        cause, msg = "git_folder", f"expected no path in git's own folder, got {shown}"
    elif any(part in {b"", b"."} or len(part) > MOST_NAME_BYTES for part in parts):
        cause, msg = "bad_path", f"expected names of 1 to {MOST_NAME_BYTES} bytes, got the path {shown}"
    else:
        return path
    raise PatchError(msg, cause=cause)


def is_git_folder(name: str) -> bool:
    r"""Whether some file system takes `name` for `.git`.

    Letters of either case; NTFS drops dots and spaces at the end and what follows a colon, has the short name
    `git~1` and takes `\` for a slash; HFS+ drops characters that print nothing. Git refuses the same when it
    writes to a work tree (its `verify_path`), but not all that read one do.
    """
    compared = name.translate(_NOT_COMPARED).split(":")[0].rstrip(" .").casefold()
    return compared in {".git", "git~1"}
