import pytest
from hypothesis import given
from hypothesis import strategies as st

from trieline.wire import seen_numbers
from trieline.wire.seen_numbers import SeenNumbers


@given(numbers=st.lists(st.integers(0, 40)))
def test_a_set_of_counts(numbers: list[int]) -> None:
    seen = SeenNumbers()
    for count, number in enumerate(numbers):
        seen.add(number)
        assert {n for n in range(42) if n in seen} == set(numbers[: count + 1])
    assert seen.num_ranges() == sum(n - 1 not in numbers for n in set(numbers))


def test_what_follows_a_refused_tree_is_one_range() -> None:
    seen = SeenNumbers()
    for number in range(100_000):
        if number != 3:
            seen.add(number)
    assert seen.num_ranges() == 2
    assert 3 not in seen
    assert 99_999 in seen


def test_gaps_without_end_are_bounded_and_the_lowest_closes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_numbers, "MAX_RANGES", 10)
    seen = SeenNumbers()
    for number in range(1, 100_000, 2):
        seen.add(number)
    assert seen.num_ranges() == 10
    assert 0 not in seen
    assert 2 in seen
    assert 99_998 not in seen
