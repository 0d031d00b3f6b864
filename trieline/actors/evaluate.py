"""Held-out success: the same tasks for the same seed, before a training run and after it."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from trieline.actors.chat import ChatRenderer
from trieline.actors.config import ActorConfig
from trieline.actors.env_session import EnvHost, takes_split
from trieline.actors.episode import EpisodePlayer
from trieline.actors.errors import StuckEnvironmentsError
from trieline.actors.policy import Policy, derived_seed
from trieline.actors.rollout import Rollout
from trieline.actors.rollout_group import EpisodeSlots
from trieline.wire.config import EnvConfig
from trieline.wire.tree import SCORED

log = logging.getLogger(__name__)

# Rewards are sums of floats: an episode counts as passed from here on.
PASS_RETURN = 1.0 - 1e-6
# Some environments hand the seed to generators that take 32 bits.
SEED_RANGE = 2**31
MAX_MESSAGE_CHARACTERS = 4000


class Transcript(msgspec.Struct, frozen=True, kw_only=True):
    """One episode as a chat."""

    task_id: str
    level: int | None
    messages: list[dict[str, str]]
    """`role` and `content` each."""
    episode_return: float


class LevelReport(msgspec.Struct, frozen=True, kw_only=True):
    """Scored episodes of one difficulty level."""

    level: int | None
    episodes: int
    mean_return: float | None
    """None without a scored episode."""


class EnvReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one environment."""

    env_id: str
    held_out: bool
    """False: the environment takes no `split`, so its tasks may have been trained on."""
    tasks: int
    attempts: int
    """Episodes per task; the k of avg@k and pass@k."""
    episodes: int
    """Scored ones."""
    mean_return: float | None
    """avg@k, the success rate where rewards are 0 or 1. Over scored episodes; None without any."""
    pass_at_k: float | None
    """Share of the tasks with a scored episode that were solved in full at least once."""
    levels: list[LevelReport]
    broken: dict[str, int]
    """Broken episodes by cause. They count in nothing above."""
    mean_tokens: float | None
    """Sampled tokens per scored episode."""
    transcripts: list[Transcript]


class EvalReport(msgspec.Struct, frozen=True, kw_only=True):
    """An evaluation, ready for JSON with `to_dict`."""

    seed: int
    temperature: float
    split: str
    policy_versions: list[int]
    """Versions that sampled, in order."""
    envs: list[EnvReport]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


@dataclass(frozen=True, kw_only=True, slots=True)
class _Attempt:
    """One episode to play, and what came of it."""

    task: int
    player: EpisodePlayer
    rollout: Rollout

    @property
    def level(self) -> int | None:
        return self.player.level


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """All episodes of one environment."""

    env: EnvConfig
    held_out: bool
    attempts: list[_Attempt]


async def evaluate(
    policy: Policy,
    renderer: ChatRenderer,
    envs: Sequence[EnvConfig],
    *,
    episodes: int = 100,
    attempts: int = 1,
    split: str = "test",
    temperature: float = 0.0,
    seed: int = 0,
    concurrency: int = 64,
    transcripts: int = 4,
    config: ActorConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EvalReport:
    """Play `episodes` tasks of each environment, `attempts` times each, spread evenly over its `eval_levels`.

    `config` gives timeouts, threads, top_p and top_k. `transcripts` episodes of each environment are kept, of
    the same tasks every time. `progress` is told (finished, all) episodes.

    Raises:
        EnvironmentSetupError: an environment is not registered.
        StuckEnvironmentsError: too many calls into environments never came back.
    """
    base = config or ActorConfig()
    config = msgspec.structs.replace(base, temperature=temperature, branching="none", branches=0, seed=seed)
    host = EnvHost(
        threads=config.env_threads, max_stuck=config.max_stuck_threads, call_timeout_s=config.turn_timeout_s
    )

    def player(env: EnvConfig, task: int, level: int | None, own_split: str | None) -> EpisodePlayer:
        return EpisodePlayer(
            env=env,
            config=config,
            renderer=renderer,
            policy=policy,
            host=host,
            seed=derived_seed(seed, "eval", env.id, task) % SEED_RANGE,
            level=level,
            split=own_split,
        )

    plans = [_plan(env, split, episodes, attempts, player) for env in envs]
    try:
        await _play([a for plan in plans for a in plan.attempts], EpisodeSlots(concurrency), progress)
    finally:
        await host.close()
    return EvalReport(
        seed=seed,
        temperature=temperature,
        split=split,
        policy_versions=_versions([a for plan in plans for a in plan.attempts]),
        envs=[_env_report(plan, episodes, attempts, transcripts, config.system_prompt) for plan in plans],
    )


def _plan(
    env: EnvConfig,
    split: str,
    episodes: int,
    attempts: int,
    player: Callable[[EnvConfig, int, int | None, str | None], EpisodePlayer],
) -> _Plan:
    held_out = takes_split(env)
    levels: list[int | None] = [*(env.curriculum.eval_levels or env.curriculum.levels)] or [None]
    players = [player(env, t, levels[t % len(levels)], split if held_out else None) for t in range(episodes)]
    return _Plan(
        env=env,
        held_out=held_out,
        attempts=[
            _Attempt(task=task, player=each, rollout=Rollout(index=index))
            for task, each in enumerate(players)
            for index in range(attempts)
        ],
    )


async def _play(
    attempts: list[_Attempt], slots: EpisodeSlots, progress: Callable[[int, int], None] | None
) -> None:
    finished = 0

    async def play(attempt: _Attempt) -> None:
        nonlocal finished
        async with slots.episode():
            await attempt.player.play(attempt.rollout)
        finished += 1
        if progress is not None:
            progress(finished, len(attempts))

    try:
        async with asyncio.TaskGroup() as running:
            for attempt in attempts:
                running.create_task(play(attempt))
    except ExceptionGroup as failed:
        # Not `except*`, which would wrap what is raised in it into a group again.
        stuck = [error for error in failed.exceptions if isinstance(error, StuckEnvironmentsError)]
        if not stuck:
            raise
        raise stuck[0] from None


def _env_report(plan: _Plan, tasks: int, attempts: int, transcripts: int, system_prompt: str) -> EnvReport:
    played = plan.attempts
    scored = [a for a in played if a.rollout.cause == SCORED]
    best: dict[int, float] = {}
    for attempt in scored:
        best[attempt.task] = max(
            best.get(attempt.task, attempt.rollout.own_return), attempt.rollout.own_return
        )
    levels = list(dict.fromkeys(a.level for a in played))
    shown = [a for a in played if a.rollout.index == 0][:transcripts]
    return EnvReport(
        env_id=plan.env.id,
        held_out=plan.held_out,
        tasks=tasks,
        attempts=attempts,
        episodes=len(scored),
        mean_return=_mean([a.rollout.own_return for a in scored]),
        pass_at_k=_mean([float(value >= PASS_RETURN) for value in best.values()]),
        levels=[_level_report(level, [a for a in scored if a.level == level]) for level in levels],
        broken=dict(Counter(a.rollout.cause for a in played if a.rollout.cause != SCORED)),
        mean_tokens=_mean([float(sum(len(t.completion.token_ids) for t in a.rollout.turns)) for a in scored]),
        transcripts=[_transcript(a, system_prompt) for a in shown],
    )


def _level_report(level: int | None, scored: list[_Attempt]) -> LevelReport:
    return LevelReport(
        level=level, episodes=len(scored), mean_return=_mean([a.rollout.own_return for a in scored])
    )


def _transcript(attempt: _Attempt, system_prompt: str) -> Transcript:
    rollout = attempt.rollout
    messages = [("system", system_prompt)] if system_prompt else []
    for number, observation in enumerate(rollout.observations):
        messages.append(("user", observation))
        if number < len(rollout.turns):
            messages.append(("assistant", rollout.turns[number].reply))
    return Transcript(
        task_id=rollout.task_id,
        level=attempt.level,
        messages=[{"role": role, "content": _bounded(text)} for role, text in messages],
        episode_return=rollout.own_return,
    )


def _versions(played: list[_Attempt]) -> list[int]:
    return sorted({int(v) for a in played for t in a.rollout.turns for v in t.completion.policy_versions})


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _bounded(text: str) -> str:
    return text[:MAX_MESSAGE_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
