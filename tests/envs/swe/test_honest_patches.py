"""What `git diff` writes is never refused, and makes the very tree that it was made from."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.envs.swe.repositories import Repository, Tree
from trieline.envs.swe.patch_paths import is_git_folder
from trieline.envs.swe.patches import checked_patch

EXAMPLES = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # each example runs git ten times: no shrinking
)
LETTERS = "ab \t\n\r\"\\'é漢%#$*;.-~𝄞"
NAMES = st.text(LETTERS, min_size=1, max_size=6).filter(
    lambda name: name not in {".", ".."} and not any(map(is_git_folder, name.split("\\")))
)
PATHS = st.lists(NAMES, min_size=1, max_size=2).map("/".join)
LINES = st.sampled_from(
    [b"a", b"b", b"", b" ", b"-- ", b"+++ b/x", b"@@ -1 +1 @@", b"diff --git a/x b/x", b"\xff"]
)
ENDS = st.sampled_from([b"\n", b"\r\n"])


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Text with lines of either end, with or without a last one, or something binary."""
    if draw(st.integers(0, 5)) == 0:
        return b"\0" + draw(st.binary(max_size=300))
    end = draw(ENDS)
    text = end.join(draw(st.lists(LINES, max_size=20)))
    return text + end * draw(st.booleans())


TREES = st.dictionaries(PATHS, st.tuples(contents(), st.booleans()), max_size=4)


@st.composite
def edits(draw: st.DrawFn) -> tuple[dict[str, tuple[bytes, bool]], dict[str, tuple[bytes, bool]]]:
    """A tree and another one: files come, go, move, are changed in places, or change their mode."""
    before = draw(TREES)
    after = dict(before)
    for name, (content, executable) in before.items():
        what = draw(st.sampled_from(["keep", "delete", "move", "mode", "lines", "replace"]))
        if what in {"delete", "move"}:
            del after[name]
        if what == "move":
            after[draw(PATHS)] = content, executable
        if what == "mode":
            after[name] = content, not executable
        if what == "lines":
            lines = content.splitlines(keepends=True)
            at = draw(st.integers(0, len(lines)))
            changed = [*lines[:at], draw(LINES) + b"\n", *lines[at + draw(st.integers(0, 2)) :]]
            after[name] = b"".join(changed), executable
        if what == "replace":
            after[name] = draw(contents()), executable
    after |= draw(TREES)
    for tree in (before, after):  # a folder and a file of one name
        for name in [n for n in tree if any(other.startswith(n + "/") for other in tree)]:
            del tree[name]
    return before, after


@EXAMPLES
@given(edits(), st.sampled_from([(), ("-M", "-C", "--find-copies-harder"), ("-c",)]))
def test_any_edit_comes_out_the_same(trees: tuple[Tree, Tree], options: tuple[str, ...]) -> None:
    before, after = trees
    with tempfile.TemporaryDirectory() as folder:
        repository = Repository(Path(folder) / "r", before)
        if options == ("-c",):
            repository.git("config", "core.quotePath", "false")
            options = ("--no-renames", "--full-index")
        repository.write(after)
        diff = repository.diff("--binary", *options)
        if not diff:
            return
        wanted = repository.tree()
        for sent in (diff, diff.removesuffix(b"\n"), b"It is done:\n" + diff, diff + b"\n-- \n2.39.5\n\n"):
            assert repository.applied(checked_patch(sent)) == wanted
        text = diff.decode("utf-8", "surrogateescape")
        patch = checked_patch(text)
        assert patch == checked_patch(diff)
        assert set(patch.touched_files) >= {
            name for name in {*before, *after} if before.get(name) != after.get(name)
        }
        assert checked_patch(patch.contents[0]).contents == patch.contents


@EXAMPLES
@given(edits())
def test_a_conversion_of_line_ends_is_undone(trees: tuple[Tree, Tree]) -> None:
    before, after = (
        {name: (text.replace(b"\r", b"").replace(b"\0", b""), mode) for name, (text, mode) in tree.items()}
        for tree in trees
    )
    with tempfile.TemporaryDirectory() as folder:
        repository = Repository(Path(folder) / "r", before)
        repository.write(after)
        diff, wanted = repository.diff("--binary", "-M"), repository.tree()
        if diff:
            assert repository.applied(checked_patch(diff.replace(b"\n", b"\r\n"))) == wanted


def test_a_file_keeps_its_own_carriage_returns(tmp_path: Path) -> None:
    lines = [b"%d\r\n" % n for n in range(9)]
    before = {"dos.txt": (b"".join(lines), False)}
    after = {"dos.txt": (b"".join([*lines[:4], b"four\r\n", *lines[5:], b"the end"]), False)}
    repository = Repository(tmp_path / "r", before)
    repository.write(after)
    diff, wanted = repository.diff(), repository.tree()
    whole = checked_patch(diff)
    assert len(whole.contents) == 1
    assert repository.applied(whole) == wanted
    converted = checked_patch(diff.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    assert len(converted.contents) == 2
    assert converted.notes == ("carriage returns at the ends of lines were removed",)
    assert repository.applied(converted) == wanted
