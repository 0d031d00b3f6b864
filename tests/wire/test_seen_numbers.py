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
    in_order = SeenNumbers()
    for number in sorted(numbers):
        in_order.add(number)
    assert vars(seen) == vars(in_order), "what follows each other is one range, whichever came first"


def test_what_follows_a_refused_tree_is_one_range() -> None:
    seen = SeenNumbers()
    for number in range(100_000):
        if number != 3:
            seen.add(number)
    # Were they more than `MAX_RANGES`, this gap would be closed.
    assert 3 not in seen
    assert all(number in seen for number in range(4, 100_000))


def test_gaps_without_end_are_bounded_and_the_lowest_closes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_numbers, "MAX_RANGES", 10)
    seen = SeenNumbers()
    for number in range(1, 100_000, 2):
        seen.add(number)
    assert 0 not in seen
    gaps = [number for number in range(2, 99_999) if number not in seen]
    assert gaps == list(range(99_982, 99_999, 2)), "nine, between ten ranges"
