"""All rollouts of one task: the group that the learner asked for, then the forks, then one tree."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np

from trieline.actors.branching import ForkPoints
from trieline.actors.chat import ChatRenderer
from trieline.actors.config import ActorConfig
from trieline.actors.env_session import EnvHost, EnvSession
from trieline.actors.episode import EpisodePlayer
from trieline.actors.policy import Policy, derived_seed
from trieline.actors.rollout import Origin, Rollout
from trieline.actors.tree_builder import build_tree
from trieline.common.prefix import common_prefix
from trieline.wire.config import EnvConfig
from trieline.wire.messages import Assignment
from trieline.wire.tree import SCORED, TrajectoryTree

log = logging.getLogger(__name__)

MAX_SAMPLE_CHARACTERS = 500


class EpisodeSlots:
    """Bounds the episodes that run at once. First come, first served: the oldest group gets done first."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)
        self.running = 0

    @asynccontextmanager
    async def episode(self) -> AsyncIterator[None]:
        async with self._free:
            self.running += 1
            try:
                yield
            finally:
                self.running -= 1


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupPlayer:
    """Plays the groups of one worker. Many at once; they share the slots, the policy and the threads."""

    config: ActorConfig
    envs: Mapping[str, EnvConfig]
    renderer: ChatRenderer
    policy: Policy
    host: EnvHost
    slots: EpisodeSlots

    async def play(self, assignment: Assignment) -> TrajectoryTree:
        """Play everything that the assignment asks for. Always gives a tree, its leaves broken at worst.

        Raises:
            BaseExceptionGroup: of StuckEnvironmentsError; this process can't go on.
        """
        rollouts = [Rollout(index=i) for i in range(assignment.group_size)]
        env = self.envs.get(assignment.env_id)
        if env is None:
            self._break_unknown(rollouts, assignment.env_id)
        else:
            rollouts += await self._play_known(assignment, env, rollouts)
        return build_tree(
            rollouts,
            env_id=assignment.env_id,
            level=assignment.level,
            group_size=assignment.group_size,
            info=_notes(rollouts),
        )

    async def _play_known(
        self, assignment: Assignment, env: EnvConfig, rollouts: list[Rollout]
    ) -> list[Rollout]:
        """Play the group in place, and return the forks."""
        points = self._fork_points(assignment)
        player = EpisodePlayer(
            env=env,
            config=self.config,
            renderer=self.renderer,
            policy=self.policy,
            host=self.host,
            seed=assignment.seed,
            level=assignment.level,
            fork_points=points,
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                for rollout in rollouts:
                    tasks.create_task(self._in_slot(player, rollout))
            self._check_same_task(rollouts, assignment)
            forks = await self._play_forks(player, rollouts, points) if points is not None else []
            self._check_same_task([*rollouts, *forks], assignment)
            return forks
        finally:
            if points is not None:
                points.close()

    async def _play_forks(
        self, player: EpisodePlayer, rollouts: list[Rollout], points: ForkPoints
    ) -> list[Rollout]:
        sources: list[tuple[Origin, EnvSession] | None] = [*points.take()]
        if not sources and any(r.cause == SCORED for r in rollouts):
            # No later turn, or no copies to be had: forks at the start are further rollouts of the task.
            sources = [None] * self.config.branches
        forks: list[Rollout] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                for source in sources:
                    fork = Rollout(index=len(rollouts) + len(forks))
                    if source is None:
                        tasks.create_task(self._in_slot(player, fork))
                    elif rollouts[source[0].rollout].prompt is None:  # it was of another task
                        continue
                    else:
                        fork.origin = source[0]
                        tasks.create_task(self._in_slot(player, fork, rollouts[source[0].rollout], source[1]))
                    forks.append(fork)
        finally:
            for source in sources:
                if source is not None:
                    source[1].close()
        return forks

    async def _in_slot(
        self,
        player: EpisodePlayer,
        rollout: Rollout,
        origin: Rollout | None = None,
        session: EnvSession | None = None,
    ) -> None:
        async with self.slots.episode():
            if origin is None or session is None or rollout.origin is None:
                await player.play(rollout)
                return
            turn = rollout.origin.turn
            rollout.observations.append(origin.observations[turn])
            context = np.concatenate([origin.tokens(turn), origin.turns[turn].context])
            await player.play_fork(rollout, session, context, turn)

    def _fork_points(self, assignment: Assignment) -> ForkPoints | None:
        if self.config.branching == "none":
            return None
        return ForkPoints(
            assignment.env_id,
            ranking=self.config.branching,
            branches=self.config.branches,
            seed=derived_seed(self.config.seed, assignment.env_id, assignment.seed),
            unforkable=self.host.unforkable,
        )

    def _check_same_task(self, rollouts: list[Rollout], assignment: Assignment) -> None:
        """Rollouts of another task than the first one's can't be compared with it: they count as broken."""
        begun = [r for r in rollouts if r.prompt is not None]
        for rollout in begun[1:]:
            same_task = rollout.task_id == begun[0].task_id
            if same_task and begun[0].prompt is not None and rollout.prompt is not None:
                same_task = common_prefix(begun[0].prompt, rollout.prompt) > 0
            if same_task:
                continue
            rollout.cause = "environment"
            rollout.reason = (
                f"{assignment.env_id}: expected the same task for the same seed {assignment.seed}, "
                f"got {begun[0].task_id!r} and {rollout.task_id!r}"
            )
            self.host.broken.add(assignment.env_id, "environment", rollout.reason)
            rollout.prompt = None
            rollout.turns.clear()
            rollout.rewards.clear()

    def _break_unknown(self, rollouts: list[Rollout], env_id: str) -> None:
        reason = f"expected an assignment for one of {sorted(self.envs)}, got {env_id!r}"
        for rollout in rollouts:
            rollout.cause, rollout.reason = "environment", reason
            self.host.broken.add(env_id, "environment", reason)


def _notes(rollouts: list[Rollout]) -> dict[str, str]:
    """A sample of the text for people: the first rollout that said anything."""
    for rollout in rollouts:
        if rollout.turns and rollout.observations:
            notes = {
                "prompt": rollout.observations[0],
                "reply": rollout.turns[0].reply,
                "score": rollout.score,
            }
            return {key: _shortened(text) for key, text in notes.items() if text}
    reasons = [r.reason for r in rollouts if r.reason]
    return {"broken": _shortened(reasons[0])} if reasons else {}


def _shortened(text: str) -> str:
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= MAX_SAMPLE_CHARACTERS else f"{text[: MAX_SAMPLE_CHARACTERS - 3]}..."
