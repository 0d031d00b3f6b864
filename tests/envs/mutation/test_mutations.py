"""Mistakes made in small sources: the right ones, the smallest text, and the way back."""

import ast
import itertools
from pathlib import Path

import pytest

import trieline.common.text
import trieline.envs.swe.task_making.changelogs
from tests.envs.swe.repositories import Repository
from trieline.envs.mutation.mutations import COMBINED, drawn, mutations_of
from trieline.envs.mutation.operators import OPERATORS
from trieline.envs.mutation.source_edits import Edit, Source, edited
from trieline.envs.swe.task_making.checkouts import commit, difference

SOURCES = {
    name: Path(module.__file__ or "").read_bytes()
    for name, module in (
        ("text.py", trieline.common.text),
        ("changelogs.py", trieline.envs.swe.task_making.changelogs),
    )
}


def body(*lines: str) -> str:
    return "def f(a, b, c):\n" + "".join(f"    {line}\n" if line else "\n" for line in lines)


def made(source: str, operator: str) -> set[str]:
    return {
        m.applied(source.encode()).decode() for m in mutations_of(source.encode()) if m.operator == operator
    }


CASES: dict[str, list[tuple[str, set[str]]]] = {
    "inverted_condition": [
        (body("return b if a else c"), {body("return b if not a else c")}),
        (body("return b if not a else c"), {body("return b if a else c")}),
        (body("return b if (a or b) else c"), {body("return b if (not (a or b)) else c")}),
        (body("return [x for x in a if x.b]"), {body("return [x for x in a if not x.b]")}),
    ],
    "changed_operator": [
        (body("return a < b"), {body("return a <= b")}),
        (body("return a  is  not None"), set()),  # two blanks: not as it is typed
        (body("return a is not None"), {body("return a is None")}),
        (body("return (a) in (b)"), {body("return (a) not in (b)")}),
        (body("return a # -", "a - b"), {body("return a # -", "a + b")}),
        (body("a += b"), {body("a -= b")}),
        (body("return a ** b // c"), {body("return a * b // c"), body("return a ** b / c")}),
    ],
    "swapped_operands": [
        (body("return a - b"), {body("return b - a")}),
        (body("return a * b"), set()),
        (body("return f(a, b, c)"), {body("return f(b, a, c)")}),
        (body("return f(a, a)"), set()),
    ],
    "off_by_one": [
        (body("return a[1:]"), {body("return a[2:]"), body("return a[0:]")}),
        (body("return 0"), {body("return 1")}),
        (body("return 0x10 + 1.5"), set()),
    ],
    "changed_constant": [(body("return f(True)"), {body("return f(False)")})],
    "broken_boolean_chain": [
        (body("return a and b"), {body("return a or b"), body("return a"), body("return b")}),
        (body("return (a) and (b)"), {body("return (a) or (b)")}),
        (body("return a or b or c"), {body("return a or c"), body("return a or b"), body("return b or c")}),
    ],
    "removed_statement": [
        (body("a = 1  # one", "return a"), {body("return a"), body("a = 1  # one")}),
        (body("return a"), set()),
        (body("a = 1; b = 2", "return a"), {body("a = 1; b = 2")}),
        (body('"""Said."""', "f(", "    a", ")"), {body('"""Said."""')}),
        (body("if a:", "    return b", "return c"), {body("return c"), body("if a:", "    return b")}),
    ],
    "removed_wrapper": [
        (body("return list(a)"), {body("return a")}),
        (body("return list(a or b) + c"), {body("return (a or b) + c")}),
        (body("if a:", "    b()", "", "    c()"), {body("b()", "", "c()")}),
        (body("with a:", "    b(a, c)"), {body("b(a, c)")}),
        (body("try:", "    b(a, c)", "except KeyError:", "    pass"), {body("b(a, c)")}),
        # What stands in quotes may not move.
        (body("if a:", "    return '''", "    text'''"), set()),
        (body("if a:", "    b(a, c)", "else:", "    c(a, b)"), set()),
    ],
    "changed_loop": [
        (body("for x in a:", "    f(x, b)"), {body("for x in a[1:]:", "    f(x, b)")}),
        (body("while a:", "    a = f(a, b)"), {body("if a:", "    a = f(a, b)")}),
        (
            body("while a():", "    break"),
            {body("while a():", "    continue")},
        ),  # `if` with `break` is no code
    ],
    "dropped_base_class": [
        ("class A(B):\n    pass\n", {"class A:\n    pass\n"}),
        ("class A(B, C):\n    pass\n", {"class A(C):\n    pass\n", "class A(B):\n    pass\n"}),
        ("class A(metaclass=B):\n    pass\n", set()),
    ],
}


def test_every_operator_has_cases() -> None:
    assert set(CASES) == set(OPERATORS)


@pytest.mark.parametrize(
    ("operator", "source", "expected"), [(o, *c) for o, cases in CASES.items() for c in cases]
)
def test_operators(operator: str, source: str, expected: set[str]) -> None:
    assert made(source, operator) == expected


@pytest.mark.parametrize(
    "source",
    [
        "def f(a: int = 1 + 2) -> 'x[3]':\n    pass\n",
        "@g(1)\ndef f():\n    pass\n",
        "LIMIT = 4 * 2\n",
        "def f(a):\n    return f'{a + 1}'\n",
        "def f(a):\r\n    return a + 1\r\n",
        "def f(:\n",
        "",
    ],
)
def test_what_is_no_code_of_a_function_stays(source: str) -> None:
    assert mutations_of(source.encode()) == []


def test_places_are_those_of_bytes_and_not_of_characters() -> None:
    assert made(body("return 'Größe: €' + a"), "swapped_operands") == {body("return a + 'Größe: €'")}


def test_a_mutated_source_compiles_and_means_something_else() -> None:
    for data in SOURCES.values():
        tree = ast.dump(ast.parse(data))
        mutations = mutations_of(data)
        assert {m.operator for m in mutations} >= {"off_by_one", "removed_statement", "broken_boolean_chain"}
        for mutation in mutations:
            changed = mutation.applied(data)
            assert ast.dump(ast.parse(changed)) != tree
            assert undone(data, changed, mutation.edits) == data


def undone(data: bytes, changed: bytes, edits: tuple[Edit, ...]) -> bytes:
    """The edits taken back, with nothing else known of the original than the bytes that they replaced."""
    moved, back = 0, []
    for edit in sorted(edits):
        start = edit.start + moved
        back.append(Edit(start=start, end=start + len(edit.text), text=data[edit.start : edit.end]))
        moved += len(edit.text) - (edit.end - edit.start)
    return edited(changed, back)


def test_the_same_seed_draws_the_same_and_all_kinds_come_first() -> None:
    first = list(itertools.islice(drawn(SOURCES, "1"), 40))
    assert first == list(itertools.islice(drawn(dict(reversed(SOURCES.items())), "1"), 40))
    assert first != list(itertools.islice(drawn(SOURCES, "2"), 40))
    assert len({placed.mutation.operator for placed in first[:12]}) >= 8
    assert COMBINED in {placed.mutation.operator for placed in first}


def test_the_patch_touches_the_mutated_lines_alone_and_leads_back(tmp_path: Path) -> None:
    sound, repository = tmp_path / "sound", tmp_path / "repository"
    sound.mkdir()
    for name, data in SOURCES.items():
        (sound / name).write_bytes(data)
    for number, placed in enumerate(itertools.islice(drawn(SOURCES, "3"), 6)):
        folder = repository.with_name(f"repository-{number}")
        tree = {name: (data, False) for name, data in SOURCES.items()}
        tree[placed.path] = (placed.mutation.applied(SOURCES[placed.path]), False)
        mutated = Repository(folder, tree)
        patch = difference(folder, sound, ["."])
        removed = [line for line in patch.splitlines() if line.startswith(b"-") and line[:3] != b"---"]
        lines = len(SOURCES[placed.path].splitlines())
        assert len(removed) < lines / 4
        assert mutated.apply(patch)
        assert (folder / placed.path).read_bytes() == SOURCES[placed.path]


def test_edits_that_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match="do not overlap"):
        edited(b"abcdef", [Edit(start=0, end=3, text=b""), Edit(start=2, end=4, text=b"")])


@pytest.mark.parametrize("data", [b"\xef\xbb\xbfx = 1\n", b"x = 1\r\n", b"x = 1\x0c\n", b"x =\n", b"\xff\n"])
def test_sources_whose_places_are_not_certain_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="expected"):
        Source(data)


def test_a_commit_is_named_by_its_files(tmp_path: Path) -> None:
    hashes = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".gitattributes").write_text("* text=auto eol=crlf\n*.py filter=evil\n")
        (tmp_path / name / ".gitignore").write_text("*.py\n")
        (tmp_path / name / "a.py").write_bytes(b"x = 1\r\ny = 2\n")
        hashes.add(commit(tmp_path / name))
    assert len(hashes) == 1
    (tmp_path / "three").mkdir()
    (tmp_path / "three/a.py").write_bytes(b"x = 1\r\ny = 3\n")
    patch = difference(tmp_path / "one", tmp_path / "three", ["."], without=[".gitignore", ".gitattributes"])
    assert b"\n x = 1\r\n-y = 2\n+y = 3\n" in patch
    assert difference(tmp_path / "one", tmp_path / "three", ["nowhere"]) == b""
