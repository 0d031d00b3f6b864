import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trieline.common.prefix import common_prefix


@given(st.lists(st.lists(st.integers(0, 2), max_size=5), min_size=1, max_size=4))
def test_common_prefix(runs: list[list[int]]) -> None:
    expected = 0
    while all(len(r) > expected for r in runs) and len({r[expected] for r in runs}) == 1:
        expected += 1
    assert common_prefix(*(np.array(r, np.int32) for r in runs)) == expected
