"""What an environment returns, checked before it is believed: text, finite rewards, bounded notes."""

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass

from trieline.actors.errors import EnvFailure

MAX_TASK_ID = 256
MAX_SCORE_TEXT = 500
# Rewards travel as float32, of which this is far from the end.
MAX_REWARD = 1e30


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What reset returned."""

    observation: str
    task_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What step returned."""

    observation: str
    reward: float
    terminated: bool
    truncated: bool
    score: str
    """`info["score"]` as text for people; empty if there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """What finish returned."""

    reward: float
    """Added to that of the last step."""
    score: str
    """As in `Step`."""


def checked_reset(outcome: object, env_id: str, seed: int) -> Task:
    """What `reset` returned, believed. An environment without `info["task_id"]` has its tasks named by seed.

    Raises:
        EnvFailure: it is not (text, dict).
    """
    if not isinstance(outcome, tuple) or len(outcome) != 2:
        raise EnvFailure(
            cause="environment",
            reason=f"{env_id}: expected (observation, info) from reset, got {_kind(outcome)}",
        )
    observation, info = outcome
    if not isinstance(info, Mapping):
        raise EnvFailure(
            cause="environment", reason=f"{env_id}: expected a dict as info of reset, got {_kind(info)}"
        )
    return Task(
        observation=_text(observation, env_id, "reset"),
        task_id=_printable(info.get("task_id", seed), MAX_TASK_ID),
    )


def checked_step(outcome: object, env_id: str) -> Step:
    """What `step` returned, believed.

    Raises:
        EnvFailure: it is not (text, finite number, bool, bool, dict).
    """
    if not isinstance(outcome, tuple) or len(outcome) != 5:
        expected = "(observation, reward, terminated, truncated, info)"
        raise EnvFailure(
            cause="environment", reason=f"{env_id}: expected {expected} from step, got {_kind(outcome)}"
        )
    observation, reward, terminated, truncated, info = outcome
    if not isinstance(info, Mapping):
        raise EnvFailure(
            cause="environment", reason=f"{env_id}: expected a dict as info of step, got {_kind(info)}"
        )
    return Step(
        observation=_text(observation, env_id, "step"),
        reward=_finite(reward, env_id),
        terminated=bool(terminated),
        truncated=bool(truncated),
        score=_score(info),
    )


def checked_finish(outcome: object, env_id: str) -> Ending:
    """What `finish` returned, believed.

    Raises:
        EnvFailure: it is not (finite number, dict).
    """
    if not isinstance(outcome, tuple) or len(outcome) != 2 or not isinstance(outcome[1], Mapping):
        reason = f"{env_id}: expected (reward, info) from finish, got {_kind(outcome)}"
        raise EnvFailure(cause="environment", reason=reason)
    reward, info = outcome
    return Ending(reward=_finite(reward, env_id), score=_score(info))


def _score(info: Mapping[str, object]) -> str:
    return _printable(info["score"], MAX_SCORE_TEXT) if "score" in info else ""


def _text(observation: object, env_id: str, call: str) -> str:
    if not isinstance(observation, str):
        reason = f"{env_id}: expected text as observation of {call}, got {_kind(observation)}"
        raise EnvFailure(cause="environment", reason=reason)
    return observation


def _finite(reward: object, env_id: str) -> float:
    value = float(reward) if isinstance(reward, numbers.Real) else math.nan
    if not abs(value) <= MAX_REWARD:
        raise EnvFailure(
            cause="environment", reason=f"{env_id}: expected a finite number as reward, got {reward!r:.80}"
        )
    return value


def _printable(value: object, length: int) -> str:
    return str(value)[:length].encode("utf-8", "replace").decode("utf-8")


def _kind(value: object) -> str:
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__
