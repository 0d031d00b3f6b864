from collections.abc import Iterator

import pytest

from tests.actors import fake_envs
from tests.actors.fake_envs import COUNTING, LISTING
from trieline.actors.errors import EnvironmentSetupError
from trieline.actors.listed_tasks import listed_tasks
from trieline.wire.config import EnvConfig


@pytest.fixture(autouse=True)
def _release() -> Iterator[None]:
    fake_envs.released.clear()
    yield
    fake_envs.released.set()


def test_the_tasks_of_both_splits_are_listed() -> None:
    lists = listed_tasks(EnvConfig(id=LISTING), 5)
    assert lists is not None
    assert lists.train == tuple(f"train {number}" for number in range(5))
    assert lists.test == tuple(f"test {number}" for number in range(5))


def test_one_that_draws_its_tasks_has_no_list() -> None:
    assert listed_tasks(EnvConfig(id=COUNTING), 5) is None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("fail", "task_ids raised KeyError: 'train'"),
        ("hang", "task_ids did not come back within 0.2 s"),
        ("twice", "expected each train task once, got 'a' 2 times"),
        ("numbers", r"Expected `str`, got `int` - at `\$.train"),
        ("text", "expected a sequence of texts, got 'ab'"),
        ("none", "expected tasks to train on, got none"),
        ("both", r"expected no task in both splits, got \['a', 'b'\]"),
        ("long", "Expected `str` of length <= 200"),
        ("many", "Expected `array` of length <= 100000.* With curriculum.listed = false"),
        ("surrogate", "surrogates not allowed"),
    ],
)
def test_what_is_no_list_of_tasks_is_told(answer: str, said: str) -> None:
    timeout_s = 0.2 if answer == "hang" else 5
    with pytest.raises(EnvironmentSetupError, match=f"^{LISTING}: .*{said}"):
        listed_tasks(EnvConfig(id=LISTING, kwargs={"answer": answer}), timeout_s)
