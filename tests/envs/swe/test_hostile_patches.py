"""Patches that must not reach git: each is refused for its own reason. And odd ones that must."""

import base64
import contextlib
import os
import random
import time
import zlib
from pathlib import Path

import pytest

from tests.envs.swe.repositories import Repository
from trieline.envs.errors import PatchError
from trieline.envs.swe.patch_paths import as_written, is_git_folder, quoted_at_start
from trieline.envs.swe.patches import CAUSES, PatchLimits, checked_patch

HUNK = "@@ -1 +1 @@\n-a\n+b\n"
GOOD = f"diff --git a/x b/x\n--- a/x\n+++ b/x\n{HUNK}"


def changed(old: str, new: str | None = None) -> str:
    """The change of one file of that name in every line, `new` if it gets another."""
    new = new or old
    return f"diff --git a/{old} b/{new}\n--- a/{old}\n+++ b/{new}\n{HUNK}"


def added(name: str, mode: str = "100644") -> str:
    header = f"diff --git a/{name} b/{name}\nnew file mode {mode}\n"
    return f"{header}--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n+x\n"


def moved(old: str, new: str, verb: str = "rename") -> str:
    return f"diff --git a/{old} b/{new}\nsimilarity index 100%\n{verb} from {old}\n{verb} to {new}\n"


def binary(kind: str, data: bytes, *, size: int | None = None, stream: bytes | None = None) -> str:
    packed = zlib.compress(data) if stream is None else stream
    lines = []
    for start in range(0, len(packed), 52):
        part = packed[start : start + 52]
        letter = chr(ord("A") + len(part) - 1) if len(part) <= 26 else chr(ord("a") + len(part) - 27)
        lines.append(letter + base64.b85encode(part, pad=True).decode() + "\n")
    header = f"diff --git a/x.bin b/x.bin\nindex {'1' * 40}..{'2' * 40} 100644\nGIT binary patch\n"
    return f"{header}{kind} {len(data) if size is None else size}\n{''.join(lines)}\n"


HUGE_DELTA = bytes([0x80 | 1, 1, *[0xFF] * 5, 0x7F]) + b"\x90" * 8

HOSTILE = {
    "a hook": (added(".git/hooks/post-checkout", "100755"), "git_folder"),
    "git's folder further down": (added("sub/module/.git/config"), "git_folder"),
    "in capitals": (added(".GIT/config"), "git_folder"),
    "with a dot at the end": (added(".git./config"), "git_folder"),
    "with a space at the end": (
        changed('".git /config"').replace('a/"', '"a/').replace('b/"', '"b/'),
        "git_folder",
    ),
    "as a short name": (added("GIT~1/config"), "git_folder"),
    "as a stream of NTFS": (added(".git::$INDEX_ALLOCATION/config"), "git_folder"),
    "behind a backslash": (added(r"a\.git\config"), "git_folder"),
    "with a character that prints nothing": (added(".g\u200cit/config"), "git_folder"),
    "in octal": (added("x").replace("b/x\n", '"b/\\056git/config"\n'), "git_folder"),
    "git's folder itself": (changed(".git"), "git_folder"),
    "renamed into it": (moved("x", ".git/config"), "git_folder"),
    "renamed out of it": (moved(".git/config", "x"), "git_folder"),
    "copied out of it": (moved(".git/config", "x", "copy"), "git_folder"),
    "a deleted index": ("diff --git a/.git/index b/.git/index\ndeleted file mode 100644\n", "git_folder"),
    "a binary file in it": (binary("literal", b"x").replace("x.bin", ".git/index"), "git_folder"),
    "a new link": (added("x", "120000"), "link"),
    "a file that becomes a link": (
        "diff --git a/x b/x\nold mode 100644\nnew mode 120000\n" + GOOD.split("\n", 1)[1],
        "link",
    ),
    "a link that points elsewhere": (GOOD.replace("--- a", "index 1111111..2222222 120000\n--- a"), "link"),
    "a new submodule": (added("x", "160000"), "submodule"),
    "another commit of a submodule": (
        GOOD.replace("--- a", "index 1111111..2222222 160000\n--- a"),
        "submodule",
    ),
    "an absolute path": (changed("/etc/passwd"), "absolute_path"),
    "an absolute path without a git header": (f"--- /etc/passwd\n+++ /etc/passwd\n{HUNK}", "absolute_path"),
    "a file above": (changed("../x"), "parent_path"),
    "a file above, in the middle": (changed("x/../../y"), "parent_path"),
    "a file above, in octal": (added("x").replace("b/x\n", '"b/\\056\\056/y"\n'), "parent_path"),
    "a file above without a git header": (f"--- a/../x\n+++ b/../x\n{HUNK}", "parent_path"),
    "moved to above": (moved("x", "../x"), "parent_path"),
    "a NUL in octal": (added("x").replace("b/x\n", '"b/y\\000z"\n'), "bad_path"),
    "a NUL": (changed("x\0y"), "bad_path"),
    "nothing between two slashes": (changed("x//y"), "bad_path"),
    "a folder for a file": (changed("x/"), "bad_path"),
    "the same folder": (changed("./x"), "bad_path"),
    "a long name": (changed("x" * 256), "bad_path"),
    "a long path": (changed("xyz/" * 1100 + "z"), "bad_path"),
    "set-user-id": (added("x", "104755"), "mode"),
    "a folder": (added("x", "040000"), "mode"),
    "no mode": (added("x", "sudo"), "mode"),
    "100 MB": (GOOD + " " * 100_000_000, "too_large"),
    "many files": ("".join(added(f"f{n}") for n in range(5_001)), "too_many_files"),
    "a literal that says it is large": (binary("literal", b"x", size=10**11), "too_large"),
    "a literal that is large": (binary("literal", b"\0" * 2**24, size=3), "corrupt"),
    "a delta that makes a large file": (binary("delta", HUGE_DELTA), "too_large"),
    "many that are large together": (binary("literal", b"\0" * 2**24) * 5, "too_large"),
    "a delta without sizes": (binary("delta", b""), "corrupt"),
    "a delta whose size never ends": (binary("delta", b"\xff" * 500_000), "corrupt"),
    "binary that is no zlib": (binary("literal", b"abc", stream=b"abc"), "corrupt"),
    "binary that is not in base 85": (binary("literal", b"abc").replace("\nK", "\nK\x01"), "corrupt"),
    "binary that is longer than it says": (binary("literal", b"abc" * 99, size=5), "corrupt"),
    "binary without hashes": (binary("literal", b"abc").replace("1" * 40, "1" * 7), "corrupt"),
    "binary without data": (binary("literal", b"abc").partition("literal")[0], "corrupt"),
    "a file without a name": (HUNK, "corrupt"),
    "two names": (changed("x", "y"), "corrupt"),
    "two names in a rename": (moved("x", "y") + f"--- a/x\n+++ b/z\n{HUNK}", "corrupt"),
    "half a rename": ("diff --git a/x b/y\nrename from x\n", "corrupt"),
    "a header that says a thing twice": (
        "diff --git a/x b/x\nnew file mode 100644\nnew file mode 120000\n",
        "corrupt",
    ),
    "new and deleted": ("diff --git a/x b/x\nnew file mode 100644\ndeleted file mode 100644\n", "corrupt"),
    "half a mode": ("diff --git a/x b/x\nnew mode 100755\n", "corrupt"),
    "no folder before the names": (f"diff --git x x\n--- x\n+++ x\n{HUNK}", "corrupt"),
    "nothing to do": ("diff --git a/x b/x\n", "corrupt"),
    "nothing to do but names": ("diff --git a/x b/x\n--- a/x\n+++ b/x\n", "corrupt"),
    "quotes that never end": (added("x").replace("b/x\n", '"b/x\n'), "corrupt"),
    "an unknown escape": (added("x").replace("b/x\n", '"b/\\x41"\n'), "corrupt"),
    "fewer lines than counted": (GOOD.replace("-1 +1", "-1,9 +1,9"), "corrupt"),
    "fewer lines than counted before a file": (GOOD.replace("-1 +1", "-1,2 +1,2") + GOOD, "corrupt"),
    "more old lines than counted": (GOOD.replace("-1 +1", "-1,0 +1"), "corrupt"),
    "no lines": (GOOD.replace("-1 +1", "-1,0 +1,0"), "corrupt"),
    "prose in a hunk": (GOOD.replace("+b", "and b"), "corrupt"),
    "a hunk that was cut": (GOOD.removesuffix("+b\n"), "corrupt"),
    "a merge": (
        "diff --cc x\nindex 1,2..3\n--- a/x\n+++ b/x\n@@@ -1,1 -1,1 +1,1 @@@\n- a\n -b\n++c\n",
        "corrupt",
    ),
    "no text": (GOOD.replace("+b", "+\ud800"), "corrupt"),
    "nothing": ("", "empty"),
    "prose": ("I could not fix it, sorry.\n", "empty"),
    "a search and replace block": ("x.py\n<<<<<<< SEARCH\na\n=======\nb\n>>>>>>> REPLACE\n", "empty"),
    "binary files only, without data": ("diff --git a/x b/x\nBinary files a/x and b/x differ\n", "empty"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refused(name: str) -> None:
    text, cause = HOSTILE[name]
    with pytest.raises(PatchError) as caught:
        checked_patch(text)
    assert caught.value.cause == cause, str(caught.value)
    message = str(caught.value)
    assert "expected" in message
    assert "got" in message or "zlib" in message or "base 85" in message or "binary delta" in message
    assert message.isprintable()
    assert len(message) < 700


def test_every_cause_was_seen() -> None:
    assert {cause for _, cause in HOSTILE.values()} == set(CAUSES)


@pytest.mark.parametrize("name", [name for name in HOSTILE if "large" not in name and "MB" not in name])
def test_refused_as_the_last_of_many(name: str) -> None:
    text, cause = HOSTILE[name]
    if cause == "empty":
        return
    with pytest.raises(PatchError) as caught:
        checked_patch(GOOD + "```\n" + text)
    assert caught.value.cause == cause


@pytest.mark.parametrize(
    "name",
    ["git", "x.git", ".gitignore", ".gitattributes", ".github", "git~2", ".git-x", "~1", ".gitt", ".g it"],
)
def test_names_that_are_not_gits_folder(name: str) -> None:
    assert not is_git_folder(name)


def test_limits_can_be_chosen() -> None:
    assert checked_patch(GOOD, PatchLimits(bytes=len(GOOD), files=1)).touched_files == ("x",)
    with pytest.raises(PatchError, match=f"at most {len(GOOD) - 1} bytes, got {len(GOOD)}"):
        checked_patch(GOOD, PatchLimits(bytes=len(GOOD) - 1))
    with pytest.raises(PatchError, match="at most 1 files"):
        checked_patch(GOOD * 2, PatchLimits(files=1))
    with pytest.raises(PatchError, match="at most 4 bytes"):
        checked_patch("é" * 4, PatchLimits(bytes=4))


def test_the_line_is_named() -> None:
    with pytest.raises(PatchError, match=r"line 4: expected 9 old and 9 new lines.*header in line 4|line 6"):
        checked_patch(GOOD.replace("-1 +1", "-1,9 +1,9"))


@pytest.mark.parametrize(
    "name", [b"x", b"a b", b'"', b"\\", b"\t\n\r\x07", "é漢".encode(), b"\xff\x80", b"a\x7f"]
)
def test_quoted_names_come_back(name: bytes) -> None:
    written = as_written(name)
    assert (quoted_at_start(written) or (written, b"")) == (name, b"")


def test_what_git_finds_in_a_patch_was_seen(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r", {})
    seeds = [t.encode("utf-8", "surrogatepass") for t, _ in HOSTILE.values() if len(t) < 2_000]
    pieces = [
        b"--- a/x\n+++ b/x\n",
        b"/",
        b"..",
        b"\r",
        b'"',
        b" ",
        b"\n",
        b"b/.git/config",
        b"@@ -1 +1 @@\n",
    ]
    pieces += [b"rename to .git/x\n", b"--- /dev/null\n", b"new file mode 100644\n", b"index 1..2 120000\n"]
    rng = random.Random(0)
    taken = 0
    for _ in range(400):
        text = bytearray(GOOD.encode() + rng.choice(seeds))
        for _ in range(rng.randint(1, 4)):
            at = rng.randint(0, len(text))
            text[at : at + rng.choice([0, 0, 1, 9])] = rng.choice([*pieces, b""])
        try:
            patch = checked_patch(bytes(text))
        except PatchError:
            continue
        found = repository.git("apply", "--numstat", "-z", "-", data=patch.contents[0], check=False)
        names = {os.fsdecode(line.split(b"\t", 2)[2]) for line in found.split(b"\0") if line}
        assert names <= set(patch.touched_files), bytes(text)
        assert checked_patch(patch.contents[0]).contents == (patch.contents[0],)
        taken += 1
    assert taken > 20


LONG = [
    "diff --git a/x" + " " * 10**6,
    "diff --git " + "a/x " * 250_000,
    "diff --git " + "/ " * 500_000,
    'diff --git "' + "\\\\" * 500_000,
    "diff --git a/x b/x\nrename from " + "x/" * 500_000 + "\nrename to y\n",
    "--- a/x\n+++ b/x\n" * 60_000,
    f"{GOOD}@@ -1 +1 @@\n" * 50_000,
    GOOD + "\\ \n" * 300_000,
]


@pytest.mark.parametrize("number", range(len(LONG)))
def test_time_follows_the_size(number: int) -> None:
    started = time.process_time()
    with contextlib.suppress(PatchError):
        checked_patch(LONG[number])
    assert time.process_time() - started < 10
