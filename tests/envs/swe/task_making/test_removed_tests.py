"""Tests taken out of their files, and shown by themselves."""

import pytest

from trieline.envs.swe.task_making.removed_tests import source_of_test, test_name, without_tests

SOURCE = b'''import pytest

A = 1


def test_a():
    assert A


# about b
@pytest.mark.parametrize("x", [
    1,
    2,
])
def test_b(x):
    """Say."""

    def inner():
        return x

    assert inner()


class TestC:
    """All of c."""

    def test_d(self):
        assert A

    class TestE:
        def test_f(self): assert A


def helper(): pass
'''

test_name.__test__ = False  # type: ignore[attr-defined]


def test_names() -> None:
    assert test_name("tests/test_a.py::TestC::test_b[x::y]") == ("tests/test_a.py", ("TestC", "test_b"))


def test_a_function_goes_with_its_decorators_and_the_rest_stays_as_it_was() -> None:
    left = without_tests(SOURCE, {("test_b",)})
    assert left is not None
    start, end = SOURCE.index(b"# about b\n") + len(b"# about b\n"), SOURCE.index(b"\n\nclass TestC")
    assert left == SOURCE[:start] + SOURCE[end:]


def test_a_class_that_nothing_is_left_of_goes_as_a_whole() -> None:
    left = without_tests(SOURCE, {("TestC", "test_d"), ("TestC", "TestE", "test_f")})
    assert left is not None
    assert b"TestC" not in left
    assert b"test_b" in left
    left = without_tests(SOURCE, {("TestC", "TestE", "test_f")})
    assert left is not None
    assert b"TestE" not in left
    assert b"test_d" in left


def test_what_is_not_found_or_is_all_there_is_can_not_go() -> None:
    assert without_tests(SOURCE, {("test_inherited",)}) is None
    assert without_tests(b"def test_a(): pass\n", {("test_a",)}) is None
    assert without_tests(b"def test_a(:\n", {("test_a",)}) is None
    assert without_tests(b"X = 1; Y = 2\ndef test_b(): pass\n", {("X",)}) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (("TestC", "TestE", "test_f"), "def test_f(self): assert A"),
        (("test_a",), "def test_a():\n    assert A"),
        (("TestC",), None),
        (("nowhere",), None),
    ],
)
def test_the_source_of_a_test(name: tuple[str, ...], expected: str | None) -> None:
    assert source_of_test(SOURCE, name) == expected
