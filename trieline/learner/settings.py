"""Settings that contradict each other or have no effect, told before anything heavy is loaded."""

from collections.abc import Sequence

from trieline.learner.config import LearnerConfig
from trieline.learner.errors import LearnerError
from trieline.learner.intake.curriculum import Curriculum
from trieline.wire.config import EnvConfig


def check_settings(config: LearnerConfig, envs: Sequence[EnvConfig]) -> None:
    """Raise LearnerError for settings that contradict each other or have no effect."""
    config.validate()
    Curriculum(
        envs,
        seed=0,
        group_size=config.group_size,
        promotion_episodes=config.promotion_episodes,
        hardest_level_share=config.hardest_level_share,
    )
    if not any(len(env.curriculum.levels) > 1 for env in envs):
        defaults = LearnerConfig()
        for name in ("promotion_episodes", "hardest_level_share"):
            if getattr(config, name) != getattr(defaults, name):
                msg = f"learner.{name} has no effect: no environment has several levels; remove it"
                raise LearnerError(msg)
