"""A release taken apart: each change is taken back by itself, and those that a test needs stay together."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from trieline.envs.mutation.source_edits import Edit, edited
from trieline.envs.swe.task_making.mutated_package import Baseline, MutatedPackage
from trieline.envs.swe.task_making.release_parts import Change, ReleaseParts, joined, taken_back
from trieline.envs.swe.task_making.verification import Cause, RefusedCandidateError


def text(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def test_changes_that_are_all_taken_back_give_the_earlier_file() -> None:
    rng = random.Random(1)
    for _ in range(200):
        later = text(*(rng.choice("abcdefgh") for _ in range(rng.randrange(40))))
        earlier = text(*(rng.choice("abcdefgh") for _ in range(rng.randrange(40))))
        if rng.random() < 0.2:
            earlier = earlier.rstrip(b"\n")
        assert edited(later, taken_back(later, earlier)) == earlier


def test_changes_near_each_other_are_one() -> None:
    lines = [f"line {number}" for number in range(20)]
    later = [*lines]
    later[2], later[6], later[15] = "x", "y", "z"
    edits = taken_back(text(*later), text(*lines))
    assert [edit.text for edit in edits] == [text(*lines[2:7]), text(lines[15])]


def change(number: int) -> Change:
    return Change(path="a.py", edit=Edit(start=number, end=number + 1, text=b""))


def test_changes_that_one_test_needs_are_joined() -> None:
    needed = {
        change(1): frozenset("ab"),
        change(2): frozenset("c"),
        change(3): frozenset("d"),
        change(4): frozenset("bd"),
    }
    groups = [{one.edit.start for one in group} for group in joined(needed)]
    assert sorted(map(sorted, groups)) == [[1, 3, 4], [2]]


class Later:
    """A package whose tests are told of what they need."""

    def __init__(self, files: dict[str, bytes], needs: dict[str, set[bytes]]) -> None:
        self._files = files
        self._needs = needs

    def sources(self) -> dict[str, bytes]:
        return self._files

    def failing(self, changes: Mapping[str, bytes], _baseline: Baseline) -> frozenset[str]:
        whole = b"".join({**self._files, **changes}.values())
        failing = {test for test, needed in self._needs.items() if not all(part in whole for part in needed)}
        if not failing:
            raise RefusedCandidateError(Cause.NOTHING_FAILS)
        return frozenset(failing)


def test_parts_are_one_fix_each_over_all_others(tmp_path: Path) -> None:
    lines = [f"line {number}" for number in range(40)]
    new = [*lines]
    new[3], new[13], new[23], new[33] = "one", "two", "three", "documented"
    (tmp_path / "a.py").write_bytes(text(*lines))
    (tmp_path / "b.py").write_bytes(b"x = 1\n")
    later = Later(
        {"a.py": text(*new), "b.py": b"four = 4\n", "c.py": b"new = 1\n"},
        {"t1": {b"one", b"four"}, "t2": {b"two"}, "t3": {b"three"}},
    )
    parts = ReleaseParts(later=cast(MutatedPackage, later), earlier_files=tmp_path)
    baseline = Baseline(checkout=tmp_path, passing=frozenset(), seconds=1.0)
    found = [dict(part) for part in parts.parts(parts.changes(), baseline)]
    one, two, three = ([*new] for _ in range(3))
    one[3], two[13], three[23] = lines[3], lines[13], lines[23]
    assert found == [
        {"a.py": text(*two)},
        {"a.py": text(*three)},
        {"a.py": text(*one), "b.py": b"x = 1\n"},
    ]
