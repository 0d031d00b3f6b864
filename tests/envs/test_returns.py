"""What can be trained on is believed, and everything else is named."""

import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from trieline.envs.errors import BadReturnError
from trieline.envs.returns import checked_finish, checked_reset, checked_step

NUMBERS = [
    (1, 1.0),
    (True, 1.0),
    (0.5, 0.5),
    (-3, -3.0),
    (np.float32(0.5), 0.5),
    (np.float64(0.5), 0.5),
    (np.int64(2), 2.0),
    (np.bool_(True), 1.0),
    (np.array(0.5), 0.5),
    (np.array(True), 1.0),
    (Decimal("0.5"), 0.5),
    (Fraction(1, 2), 0.5),
]
NO_NUMBERS = [
    "1",
    "much",
    None,
    1j,
    [1.0],
    float("nan"),
    float("inf"),
    np.float64("nan"),
    1e31,
    10**400,
    10**5000,
    Fraction(10**400),
    Decimal("NaN"),
    Decimal("sNaN"),
    Decimal("1e999"),
    np.array([1.0]),
    np.array([[0.5]]),
    np.array([1.0, 2.0]),
    np.array("1.0x"),
]


@pytest.mark.parametrize(("reward", "value"), NUMBERS)
def test_whatever_is_a_float_is_a_reward(reward: Any, value: float) -> None:
    step = checked_step(("", reward, False, True, {}))
    assert step.reward == value
    assert type(step.reward) is float
    assert (step.terminated, step.truncated) == (False, True)
    assert checked_finish((reward, {"score": 1})) == (value, {"score": 1})


@pytest.mark.parametrize("reward", NO_NUMBERS, ids=range(len(NO_NUMBERS)))
def test_other_rewards_are_named(reward: Any) -> None:
    kind = re.escape(f"({type(reward).__name__})")
    with pytest.raises(BadReturnError, match=f"expected a finite number as reward, got .*{kind}$"):
        checked_step(("", reward, False, False, {}))
    with pytest.raises(BadReturnError, match="expected a finite number as reward, got"):
        checked_finish((reward, {}))


@pytest.mark.parametrize("flag", [True, np.bool_(True), 1, np.int64(1), np.array(True)])
def test_flags_of_every_kind_count(flag: Any) -> None:
    assert checked_step(("", 0, flag, flag, {})).terminated is True
    assert checked_step(("", 0, flag, flag, {})).truncated is True


@pytest.mark.parametrize("flag", [None, "False", 2, 0.0, np.array([True]), np.array([False, True]), np.nan])
def test_other_flags_are_named(flag: Any) -> None:
    with pytest.raises(BadReturnError, match="expected True or False as terminated, got"):
        checked_step(("", 0, flag, False, {}))
    with pytest.raises(BadReturnError, match="expected True or False as truncated, got"):
        checked_step(("", 0, False, flag, {}))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("text", r"expected \(observation, info\) from reset, got str"),
        (("text",), "got a tuple of 1"),
        ((None, {}), "expected text as observation of reset, got NoneType"),
        (("", None), "expected a dict as info of reset, got NoneType"),
    ],
)
def test_other_resets_are_named(returned: Any, message: str) -> None:
    with pytest.raises(BadReturnError, match=message):
        checked_reset(returned)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (("", 0.0, False, {}), r"terminated, truncated, info\) from step, got a tuple of 4"),
        ((b"", 0.0, False, False, {}), "expected text as observation of step, got bytes"),
        (("", 0.0, False, False, [1]), "expected a dict as info of step, got list"),
    ],
)
def test_other_steps_are_named(returned: Any, message: str) -> None:
    with pytest.raises(BadReturnError, match=message):
        checked_step(returned)
