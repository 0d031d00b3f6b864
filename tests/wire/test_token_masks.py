import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.trees import allowed_by
from trieline.wire.token_masks import runs_of


@given(st.lists(st.booleans(), max_size=30))
def test_runs_say_which_tokens_are_allowed(flags: list[bool]) -> None:
    runs = runs_of(np.array(flags, np.bool_))
    assert runs.dtype == np.int32
    assert (np.diff(runs) > 0).all()
    assert allowed_by(runs, len(flags)).tolist() == flags


def test_runs_of_the_example() -> None:
    assert runs_of(np.isin(np.arange(12), [3, 4, 9])).tolist() == [3, 5, 9, 10]
