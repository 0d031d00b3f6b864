"""Patches that strangers wrote, decided on before git sees them, and written anew: it sees nothing else.

A patch is read strictly, file by file, and what was read is written again in git's own form: names in quotes,
one header, exactly the lines that each hunk counts. What stands between the files (prose, fences, signatures)
is left out, as git leaves it out. So git can't find a file in it that was not looked at here, and a patch
that names no mode asks for a regular file: git then refuses to write to a link that the repository has.

What is repaired, because it can mean one thing only: a missing newline at the end, up to three empty lines of
context that were cut off with it, the space of an empty line of context. A binary file that comes without its
data (`Binary files a/x and b/x differ`) is left out, for git would refuse the whole patch because of it, and
patch(1), to which the official harness falls back, ignores it. Wrong counts are reported, never repaired.

Carriage returns: where the header of a file ends in one, the patch went through a conversion of line ends,
and all its lines lose theirs. Where it does not, those of the content are the file's own and stay. After such
a conversion a file that had them itself looks the same: for it there is a second form that keeps them.
"""

from dataclasses import dataclass

from trieline.envs.errors import PatchError
from trieline.envs.swe.patch_binary import is_binary_start, too_large, unpacked_size
from trieline.envs.swe.patch_header import GIT, Header, Kind, read_header
from trieline.envs.swe.patch_hunks import HUNK, NO_NEWLINE, Lines, begins_file, read_hunks

CAUSES = (
    "too_large",
    "too_many_files",
    "empty",  # nothing in it that git could apply
    "corrupt",  # not a git diff, or hunks whose headers count wrong
    "git_folder",
    "absolute_path",
    "parent_path",
    "bad_path",
    "link",
    "submodule",
    "mode",  # a mode that git does not keep, such as set-user-id
)
"""Of a PatchError."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchLimits:
    """What a patch may be at most: more than agents write who leave a build folder in it."""

    bytes: int = 16 * 2**20
    files: int = 5_000
    binary_bytes: int = 64 * 2**20
    """Of all binary files together, once unpacked."""


DEFAULT_LIMITS = PatchLimits()


@dataclass(frozen=True, kw_only=True, slots=True)
class FileChange:
    """What a patch does with one file. Paths are relative to the top of the repository."""

    kind: Kind
    old_path: str | None
    """None: the file is new."""
    new_path: str | None
    """None: the file is deleted."""
    binary: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Patch:
    """A patch that may be given to git."""

    contents: tuple[bytes, ...]
    """For `git apply`: the first, and where that does not apply, the next (see the top of this module)."""
    files: tuple[FileChange, ...]
    """In the order of the patch; a file may come twice."""
    notes: tuple[str, ...]
    """What was repaired or left out, a line each."""

    @property
    def touched_files(self) -> tuple[str, ...]:
        """Every path that it changes, makes or removes, or copies from; once, in the order of the patch."""
        paths = (path for file in self.files for path in (file.old_path, file.new_path))
        return tuple(dict.fromkeys(path for path in paths if path is not None))


def checked_patch(text: str | bytes, limits: PatchLimits = DEFAULT_LIMITS) -> Patch:
    """The patch in `text`, ready for `git apply`.

    Args:
        text: a git diff, or one of `diff -u` with one folder before each name (`a/`, `b/`). Bytes that are
            not UTF-8 may come as lone surrogates (`surrogateescape`).
        limits: beyond them it is refused.

    Raises:
        PatchError: it is refused; `cause` is one of `CAUSES`, the message says where and why.
    """
    data = _bytes_of(text, limits.bytes)
    reader = _Reader(data, limits)
    reader.read()
    if not reader.sections:
        came = "only binary files without their data" if reader.notes else "none"
        msg = f"expected a git diff with a change in it, got {came}"
        raise PatchError(msg, cause="empty")
    contents = [b"".join(section.written(keep_returns=False) for section in reader.sections)]
    notes = reader.notes
    if any(section.header.converted for section in reader.sections):
        contents.append(b"".join(section.written(keep_returns=True) for section in reader.sections))
        notes.append("carriage returns at the ends of lines were removed")
    if not data.endswith(b"\n"):
        notes.append("a newline was added at the end")
    return Patch(
        contents=tuple(dict.fromkeys(contents)),
        files=tuple(section.change for section in reader.sections),
        notes=tuple(notes),
    )


def _bytes_of(text: str | bytes, most: int) -> bytes:
    if isinstance(text, str) and len(text) <= most:
        try:
            text = text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            msg = f"expected Unicode text, got a lone surrogate at character {error.start:,}"
            raise PatchError(msg, cause="corrupt") from error
    if isinstance(text, str) or len(text) > most:
        msg = f"expected a patch of at most {most:,} bytes, got {len(text):,}"
        raise PatchError(msg, cause="too_large")
    return text


@dataclass(frozen=True, kw_only=True, slots=True)
class _Section:
    """One file of a patch."""

    header: Header
    body: list[bytes]
    """Lines of hunks as they came, or of a binary change."""
    binary: bool

    @property
    def change(self) -> FileChange:
        header = self.header
        return FileChange(
            kind=header.kind, old_path=header.old_path, new_path=header.new_path, binary=self.binary
        )

    def written(self, *, keep_returns: bool) -> bytes:
        """It as git reads it, all lines with their ends."""
        body = self.body
        if self.header.converted:
            # The return before `\\ No newline` can't be the file's own: it stood for the patch's line end.
            body = [
                line if keep_returns and body[i : i + 1] != [NO_NEWLINE] else line.removesuffix(b"\r")
                for i, line in enumerate(body, start=1)
            ]
        with_hunks = bool(body) and not self.binary
        return b"".join(line + b"\n" for line in (*self.header.written(with_hunks=with_hunks), *body))


class _Reader:
    """Reads a patch from its first line to its last."""

    def __init__(self, data: bytes, limits: PatchLimits) -> None:
        self.sections: list[_Section] = []
        self.notes: list[str] = []
        self._lines = Lines(data)
        self._limits = limits
        self._binary_bytes = 0

    def read(self) -> None:
        """Read all files. Raises PatchError."""
        while self._lines:
            line = self._lines.peek()
            if line.startswith(GIT) or begins_file(self._lines):
                self._read_file()
                continue
            self._lines.take()
            if line.startswith((b"diff --cc ", b"diff --combined ")):
                self._lines.refuse("the diff of two trees, not that of a merge")
            if HUNK.fullmatch(line):
                self._lines.refuse("the name of a file before its first hunk")

    def _read_file(self) -> None:
        header, lines = read_header(self._lines), self._lines
        path = header.new_path or header.old_path
        hunks = read_hunks(lines)
        if hunks.restored:
            self.notes.append(f"{path}: {hunks.restored} empty lines of context were put back at the end")
        if hunks.uncounted:
            self.notes.append(f"{path}: {hunks.uncounted} lines that no hunk counts were left out")
        body, binary = hunks.lines, False
        if not body and lines.peek() == b"GIT binary patch":
            body, binary = self._read_binary(header), True
        elif not body and lines.peek().startswith(b"Binary files ") and lines.peek().endswith(b" differ"):
            lines.take()
            self.notes.append(f"{path}: a binary file without its data was left out")
            return
        elif not body and not header.says_a_change:
            lines.refuse("a change after the header of a file")
        if len(self.sections) == self._limits.files:
            msg = f"expected at most {self._limits.files:,} files in a patch, got more"
            raise PatchError(msg, cause="too_many_files")
        self.sections.append(_Section(header=header, body=body, binary=binary))

    def _read_binary(self, header: Header) -> list[bytes]:
        """A binary change forwards; git needs no way back."""
        lines, limit = self._lines, self._limits.binary_bytes
        lines.take()
        directions: list[list[bytes]] = []
        while is_binary_start(lines.peek()) and len(directions) < 2:
            directions.append([lines.peek()])
            lines.take()
            while lines and lines.peek():
                directions[-1].append(lines.take().removesuffix(b"\r"))
            if lines:
                lines.take()
        if not directions or not header.has_full_hashes:
            lines.refuse("a binary patch with its data, and with the full hashes of both files")
        start, *data = forwards = directions[0]
        self._binary_bytes += unpacked_size(start, data, most=limit)
        if self._binary_bytes > limit:
            raise too_large(self._binary_bytes, limit)
        return [b"GIT binary patch", *forwards, b""]
