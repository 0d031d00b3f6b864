"""The supervised warm start: demonstrations until the policy *samples* successes, measured, not counted.

A number of steps would stop too early or too late: on the tiny model sampled success goes from 13 % to 35 %
within 20 steps somewhere after step 180, and reinforcement learning from 9 % learns nothing.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from trieline.common.numbers import REWARD_ROUNDING
from trieline.learner.config import WarmStartConfig
from trieline.learner.errors import StopRequested, TrainingError
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.update.learner import Learner
from trieline.wire.tree import TrajectoryTree

log = logging.getLogger(__name__)


def warm_start(
    learner: Learner,
    config: WarmStartConfig,
    *,
    made: int = 0,
    demonstrations: Callable[[int, Collection[str]], list[TrajectoryTree]],
    measure: Callable[[], Mapping[str, float]],
    record: Callable[[Mapping[str, Any]], None],
    stop: threading.Event,
) -> int:
    """Train on demonstrations until the measured success of every environment reaches the target.

    What has reached it is shown no more, as long as it stays there: reinforcement learning is to find room
    for improvement in the easy environments, and a foothold in the hard ones.

    Args:
        learner: its optimizer begins anew afterwards.
        config: rates and limits.
        made: steps that an earlier start has made.
        demonstrations: n trees of an expert's episodes, others at every call, in some environments; in all
            that there are if none is named.
        measure: sampled success by environment, of the weights as they are at the call.
        record: takes one record for the metrics.
        stop: set when somebody asks to stop.

    Returns:
        The number of steps, those of an earlier start included.

    Raises:
        StopRequested: somebody asked to stop.
        TrainingError: the target was not reached within `max_steps`.
    """
    success: Mapping[str, float] = {}
    behind: list[str] = []
    for step in range(made + 1, config.max_steps + 1):
        if stop.is_set():
            raise StopRequested
        began = time.monotonic()
        trees = demonstrations(config.trees_per_step, behind)
        report = learner.step(trees, objective=ObjectiveConfig(loss="sft"), lr=config.lr)
        values: dict[str, Any] = {
            "warm_start/step": step,
            "warm_start/loss": report.metrics.get("loss/policy"),
            "warm_start/time": time.monotonic() - began,
        }
        if step % config.evaluate_every == 0 or step == config.max_steps:
            success = measure()
            behind = [env for env, value in success.items() if value < config.target * (1 - REWARD_ROUNDING)]
            values |= {f"warm_start/success/{env}": value for env, value in success.items()}
            values["warm_start/success/mean"] = _mean(success)
            log.info("warm start, step %d: sampled success %s", step, _listed(success))
        record(values)
        if success and not behind:
            learner.forget()
            return step
    msg = (
        f"the warm start made {config.max_steps} steps and the sampled success is {_listed(success)}, "
        f"expected {config.target:g} of each: raise warm_start.max_steps, or lower warm_start.target"
    )
    raise TrainingError(msg)


def _mean(success: Mapping[str, float]) -> float:
    return sum(success.values()) / len(success) if success else 0.0


def _listed(success: Mapping[str, float]) -> str:
    return ", ".join(f"{env} {value:.2f}" for env, value in sorted(success.items())) or "unknown"
