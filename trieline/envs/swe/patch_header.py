"""What stands above the changes of a file in a git diff: its names on both sides, its modes, its hashes."""

import re
from dataclasses import dataclass
from typing import Literal

from trieline.common.text import shortened
from trieline.envs.errors import PatchError
from trieline.envs.swe.patch_hunks import Lines
from trieline.envs.swe.patch_paths import DEV_NULL, MOST_PATH_BYTES, as_written, checked_path, quoted_at_start

Kind = Literal["modified", "new", "deleted", "renamed", "copied"]

GIT = b"diff --git "
_FIELDS = (
    b"old mode",
    b"new mode",
    b"deleted file mode",
    b"new file mode",
    b"copy from",
    b"copy to",
    b"rename from",
    b"rename to",
    b"similarity index",
    b"dissimilarity index",
    b"index",
)
_MODES = (b"old mode", b"new mode", b"deleted file mode", b"new file mode")
_REGULAR = (b"100644", b"100755", b"100664")
_LINK, _SUBMODULE = b"120000", b"160000"
_INDEX = re.compile(rb"([0-9a-f]{4,64})\.\.([0-9a-f]{4,64})(?: (\d{6}))?")
_NO_HASHES = (b"0000000", b"0000000")
_FULL_HASH = re.compile(rb"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """The header of one file, checked."""

    kind: Kind
    old_path: str | None
    new_path: str | None
    converted: bool
    """Its lines ended in a carriage return, which the names have not kept."""
    modes: tuple[bytes, ...]
    """Before and after where they differ; else the one that is known, or none."""
    hashes: tuple[bytes, bytes]
    names: tuple[bytes, bytes]
    """The paths as bytes; both the same for one that is new or deleted."""

    @property
    def says_a_change(self) -> bool:
        """Whether it is one without hunks as well: a rename, a mode, an empty file that comes or goes."""
        return self.kind != "modified" or len(self.modes) == 2

    @property
    def has_full_hashes(self) -> bool:
        """Whether git can check a binary change with them, as it insists on."""
        return all(_FULL_HASH.fullmatch(part) for part in self.hashes)

    def written(self, *, with_hunks: bool) -> list[bytes]:
        """Its lines in git's own form, without their ends.

        A file that is changed in place always has a mode here, 100644 if none was named: git then refuses
        where the repository has a link or a submodule; an executable file stays one.
        """
        old, new = self.names
        lines = [GIT + as_written(b"a/" + old) + b" " + as_written(b"b/" + new)]
        mode = self.modes[0] if self.modes else b"100644"
        if self.kind in {"new", "deleted"}:
            lines.append((b"new" if self.kind == "new" else b"deleted") + b" file mode " + mode)
        elif len(self.modes) == 2:
            lines += [b"old mode " + self.modes[0], b"new mode " + self.modes[1]]
        if self.kind in {"renamed", "copied"}:
            verb = b"rename" if self.kind == "renamed" else b"copy"
            lines += [verb + b" from " + as_written(old), verb + b" to " + as_written(new)]
        in_place = self.kind not in {"new", "deleted"} and len(self.modes) < 2
        if in_place or self.hashes != _NO_HASHES:
            lines.append(b"index " + b"..".join(self.hashes) + (b" " + mode if in_place else b""))
        if with_hunks:
            lines.append(b"--- " + (DEV_NULL if self.kind == "new" else as_written(b"a/" + old)))
            lines.append(b"+++ " + (DEV_NULL if self.kind == "deleted" else as_written(b"b/" + new)))
        return lines


def read_header(lines: Lines) -> Header:
    """The header that begins here, with `diff --git` or with `---`.

    Raises:
        PatchError: `corrupt`, a mode or a path that a patch may not have.
    """
    first = lines.peek()
    named_twice = first.removeprefix(GIT)
    fields: dict[bytes, bytes] = {}
    converted = False
    if git := first.startswith(GIT):
        converted = lines.take().endswith(b"\r")
        while field := next((f for f in _FIELDS if lines.peek().startswith(f + b" ")), None):
            if field in fields:
                lines.refuse(f"one line {field.decode()!r} a file, after this one")
            fields[field] = lines.peek().removeprefix(field + b" ")
            lines.take()
    sides: list[bytes | None] = []
    if lines.peek().startswith(b"--- ") and lines.peek(1).startswith(b"+++ "):
        sides = [_side(lines.peek(ahead)[4:], git=git, lines=lines) for ahead in (0, 1)]
        converted |= lines.take().endswith(b"\r")
        lines.take()
    kind, old, new = _names(fields, sides, named_twice, lines)
    modes, hashes = _modes_and_hashes(fields, lines)
    return Header(
        kind=kind,
        old_path=checked_path(old) if kind != "new" else None,
        new_path=checked_path(new) if kind != "deleted" else None,
        converted=converted,
        modes=modes,
        hashes=hashes,
        names=(old, new),
    )


def _names(
    fields: dict[bytes, bytes], sides: list[bytes | None], named_twice: bytes, lines: Lines
) -> tuple[Kind, bytes, bytes]:
    """What happens with the file, and its names before and after. `sides`: of `---` and `+++`, if there."""
    old, new = sides or [_same_name(named_twice)] * 2
    is_new = b"new file mode" in fields or (old is None and new is not None)
    is_deleted = b"deleted file mode" in fields or (new is None and old is not None)
    moves: tuple[tuple[bytes, Kind], ...] = ((b"rename", "renamed"), (b"copy", "copied"))
    for verb, kind in moves:
        moved = [_unquoted(fields[f], lines) for f in (verb + b" from", verb + b" to") if f in fields]
        if moved:
            if len(moved) == 1 or is_new or is_deleted or sides not in ([], moved):
                lines.refuse(f"a file that is {kind} to have one old name and one new name")
            return kind, moved[0], moved[1]
    if is_new and is_deleted:
        lines.refuse("a file to be new or deleted, not both")
    if is_new and new is not None:
        return "new", new, new
    if is_deleted and old is not None:
        return "deleted", old, old
    if old is None or new is None or old != new:
        lines.refuse("a header that names one file, or says of two that one is renamed")
    return "modified", old, new


def _side(value: bytes, *, git: bool, lines: Lines) -> bytes | None:
    """The name after `---` or `+++` without its first folder; None: there is no file on this side."""
    name = _unquoted(value.partition(b"\t")[0] if not value.startswith(b'"') else value, lines)
    if name.split(b" ")[0] == DEV_NULL:
        return None
    if name.startswith(b"/") or (b"/" not in name and not git):
        return name
    if b"/" not in name:
        lines.refuse(f"a folder before the name {shortened(name.decode(errors='replace'))!r} (a/, b/)")
    return name.partition(b"/")[2]


def _unquoted(value: bytes, lines: Lines) -> bytes:
    if not value.startswith(b'"'):
        return value
    quoted = quoted_at_start(value)
    if quoted is None or quoted[1].strip():
        lines.refuse("a name in quotes as git writes it")
    return quoted[0]


def _same_name(value: bytes) -> bytes | None:
    """The name that stands twice after `diff --git`, with another first folder; None where it does not."""
    if len(value) > 10 * MOST_PATH_BYTES:  # twice, and four times as long in quotes
        return None
    if b'"' in value:
        return _same_quoted_name(value)
    start, space = value.find(b"/") + 1, -1
    while start and (space := value.find(b" ", space + 1)) != -1:
        second = value.find(b"/", space + 1) + 1
        if not second:
            return None
        # The two lengths move towards each other: they are equal once at most.
        if 0 < len(value) - second == space - start and value[second:] == value[start:space]:
            return value[second:]
    return None


def _same_quoted_name(value: bytes) -> bytes | None:
    """As `_same_name`, of a line in which at least one name is in quotes."""
    first = quoted_at_start(value)
    name, rest = first or (value.partition(b' "')[0], value[len(value.partition(b' "')[0]) :])
    if not rest.startswith(b" "):
        return None
    second = quoted_at_start(rest[1:]) or (rest[1:], b"")
    stripped = [side.partition(b"/")[2] for side in (name, second[0])]
    return stripped[0] if stripped[0] == stripped[1] and stripped[0] and not second[1] else None


def _modes_and_hashes(
    fields: dict[bytes, bytes], lines: Lines
) -> tuple[tuple[bytes, ...], tuple[bytes, bytes]]:
    index = _INDEX.fullmatch(fields.get(b"index", b""))
    hashes = (index[1], index[2]) if index else _NO_HASHES
    named = {field: fields[field] for field in _MODES if field in fields}
    if index and index[3]:
        named[b"index"] = index[3]
    for field, mode in named.items():
        if mode == _SUBMODULE:
            msg = f"line {lines.number}: expected files, got a submodule"
            raise PatchError(msg, cause="submodule")
        # A link may go, and what comes in its place is a file of its own in the patch.
        if mode == _LINK and field != b"deleted file mode":
            msg = f"line {lines.number}: expected files, got a symbolic link"
            raise PatchError(msg, cause="link")
        if mode not in {*_REGULAR, _LINK}:
            came = shortened(mode.decode(errors="replace"))
            msg = f"line {lines.number}: expected a file of mode 100644 or 100755, got {came!r}"
            raise PatchError(msg, cause="mode")
    if (b"old mode" in named) != (b"new mode" in named):
        lines.refuse("an old mode and a new one")
    if b"old mode" in named:
        return (named[b"old mode"], named[b"new mode"]), hashes
    return tuple(named.values())[:1], hashes
