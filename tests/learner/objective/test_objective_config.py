import subprocess
import sys

import msgspec
import pytest

from trieline.learner.errors import ObjectiveError
from trieline.learner.objective_config import ObjectiveConfig

WITHOUT_EFFECT = [
    {"gamma": 0.9},
    {"lam": 0.9},
    {"rho_bar": 2.0},
    {"c_bar": 2.0},
    {"value_coef": 1.0},
    {"rho_pg_bar": 2.0},
    {"tis_cap": 3.0},
    {"icepop_low": 0.1},
    {"icepop_high": 3.0},
    {"loss": "vtrace_pg", "clip_low": 0.1},
    {"loss": "tis", "clip_high": 0.1},
    {"loss": "tis", "dual_clip": 3.0},
    {"advantage": "vtrace", "scale_rewards": "group"},
    {"advantage": "vtrace", "skip_zero_std": False},
    {"loss": "sft", "advantage": "tree"},
    {"loss": "sft", "entropy_scaling": "token"},
    {"loss": "sft", "scale_rewards": "batch"},
    {"entropy_scale_min": 0.1},
    {"entropy_scale_max": 3.0},
    {"kl_estimator": "k1"},
]


@pytest.mark.parametrize("settings", WITHOUT_EFFECT, ids=str)
def test_a_setting_without_effect_is_refused_by_name(settings: dict[str, object]) -> None:
    config = msgspec.convert(settings, ObjectiveConfig)
    with pytest.raises(
        ObjectiveError, match=rf"objective\.{list(settings)[-1]} = .* has no effect with(out)?\b"
    ):
        config.validate()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"advantage": "vtrace", "loss": "vtrace_pg", "gamma": 0.9, "rho_pg_bar": 2.0, "value_coef": 1.0},
        {"loss": "icepop", "icepop_low": 0.1, "scale_rewards": "group", "skip_zero_std": False},
        {"loss": "sft", "norm": "rollout", "entropy_coef": 0.1},
        {"entropy_scaling": "token", "entropy_scale_min": 0.1, "kl_coef": 0.1, "kl_estimator": "k1"},
    ],
    ids=str,
)
def test_settings_with_effect_pass(settings: dict[str, object]) -> None:
    msgspec.convert(settings, ObjectiveConfig).validate()


def test_limits_that_cross_are_refused() -> None:
    config = ObjectiveConfig(entropy_scaling="token", entropy_scale_min=3.0)
    with pytest.raises(ObjectiveError, match="entropy_scale_min <= entropy_scale_max"):
        config.validate()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss": "tis", "tis_cap": 101.0}, "expected tis_cap <= 100"),
        ({"clip_high": 1000.0}, "expected clip_high <= 100"),
        ({"advantage": "vtrace", "loss": "vtrace_pg", "rho_bar": float("inf")}, "expected rho_bar <= 100"),
        ({"dual_clip": 1.2}, r"expected dual_clip > 1 \+ clip_high = 1.28, got 1.2"),
    ],
)
def test_limits_of_ratios_that_mean_nothing_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ObjectiveError, match=said):
        msgspec.convert(settings, ObjectiveConfig).validate()


def test_importable_without_torch() -> None:
    code = "import sys, trieline.learner.objective_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
