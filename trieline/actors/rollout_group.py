"""All rollouts of one task: the group that the learner asked for, then the forks, then one tree."""

import asyncio
import logging
from dataclasses import dataclass

import msgspec

from trieline.actors.branching import ForkPoints
from trieline.actors.broken_episodes import BrokenEpisodes
from trieline.actors.config import ActorConfig
from trieline.actors.env_session import TaskChoice, split_asked
from trieline.actors.episode import EpisodePlayer
from trieline.actors.player import Stage
from trieline.actors.rollout import Origin, Rollout
from trieline.actors.session import Session
from trieline.actors.transcripts import ended, transcript_of
from trieline.actors.tree_builder import build_tree
from trieline.common.message import text_of
from trieline.common.prefix import common_prefix
from trieline.common.seeds import derived_seed
from trieline.wire.config import EnvConfig
from trieline.wire.messages import Assignment
from trieline.wire.tree import SCORED, TrajectoryTree

log = logging.getLogger(__name__)

MAX_SAMPLE_CHARACTERS = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupPlayer:
    """Plays the groups of one worker. Many at once; they share the slots, the policy and the threads."""

    stage: Stage

    async def play(self, assignment: Assignment) -> TrajectoryTree:
        """As in `Player`."""
        rollouts = [Rollout(index=i) for i in range(assignment.group_size)]
        env = self.stage.envs.get(assignment.env_id)
        split: str | None = None
        if env is None:
            self._break_unknown(rollouts, assignment.env_id)
        else:
            split = split_asked(env, assignment.split)
            rollouts += await self._play_known(assignment, env, split, rollouts)
        return finished_tree(
            rollouts,
            assignment,
            split=split,
            group_size=assignment.group_size,
            system_prompt=self.stage.config.system_prompt,
        )

    async def _play_known(
        self, assignment: Assignment, env: EnvConfig, split: str | None, rollouts: list[Rollout]
    ) -> list[Rollout]:
        """Play the group in place, and return the forks."""
        config = sampling_config(self.stage.config, assignment)
        points = self._fork_points(assignment)
        player = EpisodePlayer(
            env=env,
            config=config,
            renderer=self.stage.renderer,
            policy=self.stage.policy,
            host=self.stage.host,
            task=TaskChoice(
                seed=assignment.seed, level=assignment.level, task_id=assignment.task_id, split=split
            ),
            fork_points=points,
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                for rollout in rollouts:
                    tasks.create_task(self._in_slot(player, rollout))
            break_other_tasks(rollouts, assignment, self.stage.host.broken)
            forks = await self._play_forks(player, rollouts, points) if points is not None else []
            break_other_tasks([*rollouts, *forks], assignment, self.stage.host.broken)
            return forks
        finally:
            if points is not None:
                points.close()

    async def _play_forks(
        self, player: EpisodePlayer, rollouts: list[Rollout], points: ForkPoints
    ) -> list[Rollout]:
        sources: list[tuple[Origin, Session] | None] = [*points.take()]
        if not sources and any(r.cause == SCORED for r in rollouts):
            # No later turn, or no copies to be had: forks at the start are further rollouts of the task.
            sources = [None] * self.stage.config.branches
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
        session: Session | None = None,
    ) -> None:
        async with self.stage.slots.episode():
            if origin is None or session is None or rollout.origin is None:
                await player.play(rollout)
                return
            turn = rollout.origin.turn
            rollout.heard.append(origin.heard[turn])
            rollout.tools = origin.tools
            window = origin.turns[turn].window
            assert window is not None  # of every turn that was played
            await player.play_fork(rollout, session, window, turn)

    def _fork_points(self, assignment: Assignment) -> ForkPoints | None:
        if self.stage.config.branching == "none" or assignment.purpose == "evaluate":
            return None
        return ForkPoints(
            assignment.env_id,
            ranking=self.stage.config.branching,
            branches=self.stage.config.branches,
            seed=derived_seed(self.stage.config.seed, assignment.env_id, assignment.seed),
            unforkable=self.stage.host.unforkable,
        )

    def _break_unknown(self, rollouts: list[Rollout], env_id: str) -> None:
        reason = self.stage.lacks(env_id)
        for rollout in rollouts:
            rollout.cause, rollout.reason = "environment", reason
            self.stage.host.broken.add(env_id, "environment", reason)


def sampling_config(config: ActorConfig, assignment: Assignment) -> ActorConfig:
    """As the actor is told, but at the temperature that the assignment asks for."""
    if assignment.temperature is None:
        return config
    return msgspec.structs.replace(config, temperature=assignment.temperature)


def break_other_tasks(rollouts: list[Rollout], assignment: Assignment, broken: BrokenEpisodes) -> None:
    """Rollouts of another task than was asked for, or than the first one's, count as broken."""
    first: Rollout | None = None
    for rollout in rollouts:
        if rollout.prompt is None:
            continue
        if assignment.task_id is not None and rollout.task_id != assignment.task_id:
            reason = (
                f"expected the task {assignment.task_id!r}, as asked for in the options of reset, in its "
                f"info, got {rollout.task_id!r}"
            )
        elif first is None or first.prompt is None:
            first = rollout
            continue
        elif first.task_id != rollout.task_id or common_prefix(first.prompt, rollout.prompt) == 0:
            reason = (
                f"expected the same task for the same seed {assignment.seed}, got {first.task_id!r} and "
                f"{rollout.task_id!r}"
            )
        else:
            continue
        rollout.cause, rollout.reason = "environment", f"{assignment.env_id}: {reason}"
        broken.add(assignment.env_id, "environment", rollout.reason)
        rollout.prompt = None
        rollout.turns.clear()
        rollout.rewards.clear()


def finished_tree(
    rollouts: list[Rollout],
    assignment: Assignment,
    *,
    split: str | None,
    group_size: int,
    system_prompt: str,
) -> TrajectoryTree:
    """The tree that answers an assignment, with its notes for people.

    `split`: that the environment was made for. Rollouts from `group_size` on are forks.
    """
    # A task that is asked for by name is of its own split, whatever the environment is made for.
    played = split if assignment.task_id is None else assignment.split
    info = _notes(rollouts) | ({} if played is None else {"split": played})
    if assignment.purpose == "evaluate":
        info["transcript"] = transcript(rollouts[0], system_prompt)
    return build_tree(
        rollouts,
        env_id=assignment.env_id,
        level=assignment.level,
        group_size=group_size,
        info=info,
        task_id=assignment.task_id,
    )


def transcript(rollout: Rollout, system_prompt: str) -> str:
    """One episode as a chat, for people: JSON, a list of messages with `role` and `content`."""
    own = rollout.heard[:1] and rollout.heard[0][0].role == "system"
    said = [("system", system_prompt)] if system_prompt and not own else []
    for number, heard in enumerate(rollout.heard):
        said += [(message.role, message.content) for message in heard]
        if number < len(rollout.turns):
            said.append(("assistant", rollout.turns[number].reply))
    return transcript_of(said)


def _notes(rollouts: list[Rollout]) -> dict[str, str]:
    """For people: a sample of the text, of the first rollout that said anything, and why one is broken."""
    notes = {"broken": next((r.reason for r in rollouts if r.reason), "")}
    sample = next((r for r in rollouts if r.turns and r.heard), None)
    if sample is not None:
        notes |= {"prompt": text_of(sample.heard[0]), "reply": sample.turns[0].reply, "score": sample.score}
    return {key: ended(text, MAX_SAMPLE_CHARACTERS) for key, text in notes.items() if text}
