import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trieline.envs.code.values import MAX_ITEMS, Other, decode, dumped, encode

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.complex_numbers(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=4)
        | st.sets(st.integers() | st.text(max_size=5), max_size=4)
    ),
    max_leaves=20,
)


@given(PLAIN)
def test_a_plain_value_comes_back_as_it_was(value: object) -> None:
    back = decode(json.loads(json.dumps(encode(value))))
    assert back == value
    assert type(back) is type(value)


def test_what_is_not_plain_comes_as_a_name_that_equals_nothing() -> None:
    class Always:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = object.__hash__

    back = decode(encode([Always()]))[0]
    assert isinstance(back, Other)
    assert back != Always.__name__
    assert back != back  # that is the point
    assert repr(back) == "<Always>"


def test_sets_within_sets_and_keys_are_frozen() -> None:
    assert decode(encode({frozenset({1})})) == {frozenset({1})}
    assert decode(encode({frozenset({1}): 2})) == {frozenset({1}): 2}


def test_equal_calls_have_equal_texts() -> None:
    assert dumped(({3, 1, 2}, 1)) == dumped(({2, 3, 1}, 1))
    assert dumped((1, {})) != dumped((True, {}))
    assert dumped(math.nan) == dumped(math.nan)


def test_too_much_is_refused() -> None:
    with pytest.raises(ValueError, match="too many items"):
        encode(list(range(MAX_ITEMS + 1)))


@pytest.mark.parametrize("encoded", [[], [1], ["heap", 1], ["dict", 5], ["bytes"]])
def test_what_encode_did_not_make_is_refused(encoded: object) -> None:
    with pytest.raises((ValueError, TypeError, IndexError)):
        decode(encoded)
