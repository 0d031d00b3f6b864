"""Patches as models and agents send them: repaired where they can mean one thing only, else reported."""

from pathlib import Path

import pytest

from tests.envs.swe.repositories import Repository
from trieline.envs.errors import PatchError
from trieline.envs.swe.patches import FileChange, checked_patch

LINES = [b"one\n", b"two\n", b"three\n", b"four\n", b"\n", b"\n"]
TREE = {"src/a.py": (b"".join(LINES), False), "run.sh": (b"echo\n", True)}
HUNK = "@@ -1,6 +1,6 @@\n one\n two\n three\n-four\n+4\n \n \n"
DIFF = (
    f"diff --git a/src/a.py b/src/a.py\nindex 1111111..2222222 100644\n--- a/src/a.py\n+++ b/src/a.py\n{HUNK}"
)
FIXED = {**TREE, "src/a.py": (b"one\ntwo\nthree\n4\n\n\n", False)}

SENT = {
    "as it is": (DIFF, ()),
    "without the last newline": (DIFF[:-1], ("a newline was added at the end",)),
    "stripped": (
        DIFF.strip(),
        ("src/a.py: 2 empty lines of context were put back at the end", "a newline was added at the end"),
    ),
    "stripped, with one newline": (
        DIFF.strip() + "\n",
        ("src/a.py: 2 empty lines of context were put back at the end",),
    ),
    "without spaces in empty lines": (DIFF.replace("\n \n", "\n\n").replace("\n \n", "\n\n"), ()),
    "empty lines before it": ("\n\n" + DIFF, ()),
    "in a fence": (f"Here is the patch:\n\n```diff\n{DIFF}```\nIt works.\n", ()),
    "with the head and foot of a mail": (
        f"From 1 Mon Sep 17 00:00:00 2001\nSubject: [PATCH] x\n---\n a.py | 2 +-\n\n{DIFF}-- \n2.39.5\n\n",
        (),
    ),
    "without the git header": (DIFF.partition("--- a")[1] + DIFF.partition("--- a")[2], ()),
    "with dates": (
        f"--- old/src/a.py\t2024-01-01 00:00:00.1 +0000\n+++ new/src/a.py\t2024-01-02 00:00:00 +0000\n{HUNK}",
        (),
    ),
    "with other folders before the names": (DIFF.replace("a/src", "c/src").replace("b/src", "w/src"), ()),
    "with hashes that are none": (DIFF.replace("1111111..2222222", "abc..xyz"), ()),
    "without hashes": (DIFF.replace("index 1111111..2222222 100644\n", ""), ()),
    "without names above the hunk": (DIFF.replace("--- a/src/a.py\n+++ b/src/a.py\n", ""), ()),
    "as a part of subversion's": ("Index: src/a.py\n" + "=" * 67 + "\n" + DIFF.partition("100644\n")[2], ()),
    "with the text after @@": (DIFF.replace(" @@\n", " @@ class A: # +++ b/x\n"), ()),
    "with carriage returns": (
        DIFF.replace("\n", "\r\n"),
        ("carriage returns at the ends of lines were removed",),
    ),
    "with carriage returns, stripped": (
        DIFF.replace("\n", "\r\n").strip(),
        (
            "src/a.py: 2 empty lines of context were put back at the end",
            "carriage returns at the ends of lines were removed",
            "a newline was added at the end",
        ),
    ),
    "beside a binary file without its data": (
        f"diff --git a/db b/db\nnew file mode 100644\nindex 0000000000..9f6ac05b48\n"
        f"Binary files /dev/null and b/db differ\n{DIFF}",
        ("db: a binary file without its data was left out",),
    ),
    "with lines that are not counted": (
        DIFF + "+more\n",
        ("src/a.py: 1 lines that no hunk counts were left out",),
    ),
}


@pytest.mark.parametrize("name", SENT)
def test_what_is_sent_applies(name: str, tmp_path: Path) -> None:
    text, notes = SENT[name]
    repository = Repository(tmp_path / "r", TREE)
    repository.write(FIXED)
    wanted = repository.tree()
    patch = checked_patch(text)
    assert patch.notes == notes
    assert patch.touched_files == ("src/a.py",)
    assert repository.applied(patch) == wanted


def test_files_without_a_mode_are_made_and_removed(tmp_path: Path) -> None:
    text = (
        "--- /dev/null\n+++ b/new.py\n@@ -0,0 +1 @@\n+x\n"
        "diff --git a/run.sh b/run.sh\n--- a/run.sh\n+++ /dev/null\n@@ -1 +0,0 @@\n-echo\n"
        "diff --git a/empty b/empty\nnew file mode 100755\n"
    )
    repository = Repository(tmp_path / "r", TREE)
    patch = checked_patch(text)
    assert [(file.kind, file.old_path, file.new_path) for file in patch.files] == [
        ("new", None, "new.py"),
        ("deleted", "run.sh", None),
        ("new", None, "empty"),
    ]
    wanted = {"src/a.py": TREE["src/a.py"], "new.py": (b"x\n", False), "empty": (b"", True)}
    other = Repository(tmp_path / "other", wanted)
    assert repository.applied(patch) == other.tree()


def test_an_executable_file_stays_one(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r", TREE)
    repository.write({**TREE, "run.sh": (b"ls\n", True)})
    wanted = repository.tree()
    patch = checked_patch("--- a/run.sh\n+++ b/run.sh\n@@ -1 +1 @@\n-echo\n+ls\n")
    assert repository.applied(patch) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "--- a/link\n+++ b/link\n@@ -1 +1 @@\n-run.sh\n\\ No newline at end of file\n+../x\n"
        "\\ No newline at end of file\n",
        "diff --git a/link b/deep/link\nrename from link\nrename to deep/link\n",
        "diff --git a/link b/deep/link\ncopy from link\ncopy to deep/link\n",
        "--- /dev/null\n+++ b/out/x\n@@ -0,0 +1 @@\n+x\n",
    ],
)
def test_a_link_of_the_repository_is_not_written(text: str, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r", TREE)
    (repository.folder / "link").symlink_to("run.sh")
    (repository.folder / "out").symlink_to(tmp_path)
    repository.git("add", "-A")
    repository.git("commit", "-q", "-m", "links")
    assert repository.applied(checked_patch(text)) is None


def test_a_link_may_be_removed_and_replaced(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r", TREE)
    link = repository.folder / "link"
    link.symlink_to("run.sh")
    repository.git("add", "-A")
    repository.git("commit", "-q", "-m", "links")
    link.unlink()
    link.write_bytes(b"a file\n")
    diff, wanted = repository.diff(), repository.tree()
    patch = checked_patch(diff)
    assert patch.touched_files == ("link",)
    assert [file.kind for file in patch.files] == ["deleted", "new"]
    assert repository.applied(patch) == wanted


def test_both_sides_of_a_rename_are_touched() -> None:
    patch = checked_patch(
        'diff --git "a/a b" b/c\nsimilarity index 100%\nrename from a b\nrename to "c\\td"\n'
    )
    assert patch.files == (FileChange(kind="renamed", old_path="a b", new_path="c\td", binary=False),)
    assert patch.touched_files == ("a b", "c\td")


def test_tests_that_a_patch_moves_are_seen() -> None:
    patch = checked_patch(
        DIFF + "diff --git a/tests/test_a.py b/x.py\nsimilarity index 100%\n"
        "copy from tests/test_a.py\ncopy to x.py\n" + DIFF
    )
    assert patch.touched_files == ("src/a.py", "tests/test_a.py", "x.py")


@pytest.mark.parametrize("lost", ["+4\n", " one\n", "-four\n", " two\n three\n"])
def test_wrong_counts_are_reported(lost: str) -> None:
    with pytest.raises(
        PatchError, match=r"line \d+: expected 6 old and 6 new lines, as the header in line 5"
    ):
        checked_patch(DIFF.replace(lost, "") + DIFF)


def test_a_file_that_is_no_utf_8_is_kept(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r", {"latin.txt": (b"caf\xe9\n", False)})
    repository.write({"latin.txt": (b"caf\xe9s\n", False)})
    diff, wanted = repository.diff(), repository.tree()
    assert repository.applied(checked_patch(diff.decode("utf-8", "surrogateescape"))) == wanted
