from typing import Any

import msgspec
import pytest

from trieline.learner.config import LearnerConfig
from trieline.learner.errors import LearnerError
from trieline.learner.settings import check_settings
from trieline.wire.config import CurriculumConfig, EnvConfig
from trieline.wire.task_lists import TaskLists

LEVELS = [EnvConfig(id="a", curriculum=CurriculumConfig(levels=[0, 1]))]


def config(**settings: Any) -> LearnerConfig:
    return msgspec.convert(settings, LearnerConfig)


def test_defaults_are_valid() -> None:
    check_settings(config(), LEVELS)
    check_settings(config(), [EnvConfig(id="a")])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": {"final_lr_fraction": 0.1}}, r"optimizer\.final_lr_fraction = 0\.1 has no effect"),
        ({"optimizer": {"warmup_steps": 5}, "steps": 5}, "expected optimizer.warmup_steps < steps"),
        ({"group_size": 1}, "expected group_size >= 2"),
        ({"objective": {"kl_estimator": "k1"}}, "kl_estimator"),
        ({"replay": "x", "probe": False}, r"learner\.probe = False has no effect with replay"),
        ({"replay": "x", "warm_start": {}}, r"learner\.warm_start = .* has no effect with replay"),
    ],
)
def test_settings_without_effect_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LearnerError, match=message):
        check_settings(config(**settings), LEVELS)


def test_settings_of_the_curriculum_need_levels() -> None:
    with pytest.raises(LearnerError, match=r"learner\.promotion_episodes has no effect"):
        check_settings(
            config(promotion_episodes=3), [EnvConfig(id="a", curriculum=CurriculumConfig(levels=[4]))]
        )
    check_settings(config(promotion_episodes=3), LEVELS)


def test_settings_of_a_list_need_one_as_soon_as_lists_are_known() -> None:
    resting = EnvConfig(id="a", curriculum=CurriculumConfig(rest_after=2))
    check_settings(config(), [resting])
    check_settings(config(), [resting], {"a": TaskLists(train=("one",), test=())})
    with pytest.raises(
        LearnerError, match=r"a: expected a list of tasks \(task_ids\) where rest_after is set"
    ):
        check_settings(config(), [resting], {})


def test_a_mix_that_no_curriculum_can_follow_is_refused() -> None:
    few = EnvConfig(id="a", curriculum=CurriculumConfig(levels=[4], open_levels=2))
    with pytest.raises(LearnerError, match="a: expected open_levels <= 1"):
        check_settings(config(), [few])
    with pytest.raises(LearnerError, match="expected every environment once in the mix, got 'a' twice"):
        check_settings(config(), [*LEVELS, *LEVELS])


def test_the_values_of_advantages_without_groups() -> None:
    check_settings(config(group_size=1, objective={"advantage": "vtrace", "loss": "vtrace_pg"}), LEVELS)


@pytest.mark.parametrize(
    "settings", [{"steps": 0}, {"optimizer": {"lr": 0}}, {"optimizer": {"betas": [0.9, 1.0]}}, {"unknown": 1}]
)
def test_values_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        config(**settings)
