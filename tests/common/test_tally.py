"""Figures of parts, added up, are the figures of the whole."""

import numpy as np
import pytest

from trieline.common.tally import Tally


def tally(values: np.ndarray) -> Tally:
    made = Tally()
    made.add_total("total", float(values.sum()))
    made.add_mean("mean", float(values.sum()), len(values))
    made.add_deviation("std", len(values), float(values.sum()), float(np.square(values).sum()))
    if len(values):
        made.add_maximum("max", float(values.max()))
        made.add_minimum("min", float(values.min()))
    return made


@pytest.mark.parametrize("cuts", [[], [3], [0, 1, 9]])
def test_parts_add_up(cuts: list[int]) -> None:
    values = np.random.default_rng(0).normal(size=10)
    whole = Tally()
    for part in np.split(values, cuts):
        whole.add(tally(part))
    assert whole.figures() == pytest.approx(
        {
            "total": values.sum(),
            "mean": values.mean(),
            "std": values.std(),
            "max": values.max(),
            "min": values.min(),
        }
    )


def test_it_reads_as_a_mapping_of_figures() -> None:
    made = tally(np.array([1.0, 3.0]))
    assert made["mean"] == 2.0
    assert dict(made) == {"total": 4.0, "mean": 2.0, "std": 1.0, "max": 3.0, "min": 1.0}
    assert made == dict(made)
    assert "median" not in made


def test_a_mean_of_nothing_is_left_out() -> None:
    assert tally(np.empty(0)).figures() == {"total": 0.0}


def test_equal_numbers_do_not_deviate() -> None:
    assert tally(np.full(7, 0.1))["std"] == pytest.approx(0, abs=1e-8)
