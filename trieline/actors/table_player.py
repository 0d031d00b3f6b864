"""Games of several players, all seats played by policies: one tree a task, a sequence a seat and game.

Sequences of one seat are compared with each other (`leaf_groups`). A game that breaks is broken for all of
its seats; one that a limit cuts is cut for all. Of a seat that an earlier version plays the tree has nothing.
"""

import asyncio
from dataclasses import dataclass, field

from trieline.actors.config import ActorConfig
from trieline.actors.env_session import TaskChoice, has_tables, split_asked
from trieline.actors.episode import EpisodePlayer
from trieline.actors.errors import EnvFailure
from trieline.actors.game_table import GameTable, SeatHost, SeatSession
from trieline.actors.player import Player, Stage
from trieline.actors.policy import Policy
from trieline.actors.rollout import Rollout
from trieline.actors.rollout_group import break_other_tasks, finished_tree, sampling_config
from trieline.common.arrays import Int32
from trieline.common.message import Message
from trieline.wire.config import EnvConfig
from trieline.wire.messages import Assignment
from trieline.wire.tree import SCORED, TrajectoryTree


@dataclass(frozen=True, kw_only=True, slots=True)
class TablePlayer:
    """Plays the games of one worker, and hands on what has no table."""

    stage: Stage
    others: Player
    """For environments of one player, and for tasks whose other seats the environment plays."""

    async def play(self, assignment: Assignment) -> TrajectoryTree:
        """As in `Player`. As many games as the assignment asks for rollouts, and for forks one more each."""
        env = self.stage.envs.get(assignment.env_id)
        if env is None or not has_tables(env):
            return await self.others.play(assignment)
        split = split_asked(env, assignment.split)
        group = _Games(
            stage=self.stage,
            env=env,
            config=sampling_config(self.stage.config, assignment),
            choice=TaskChoice(
                seed=assignment.seed, level=assignment.level, task_id=assignment.task_id, split=split
            ),
        )
        try:
            seats = await group.seats()
        except EnvFailure as failure:
            seats, rollouts = 1, [Rollout(index=number) for number in range(assignment.group_size)]
            group.give_up(rollouts, failure)
        else:
            if seats == 0:
                return await self.others.play(assignment)
            rollouts = await group.play(assignment.group_size + self._forks(assignment), seats)
        break_other_tasks(rollouts, assignment, self.stage.host.broken)
        return finished_tree(
            rollouts,
            assignment,
            split=split,
            group_size=assignment.group_size * seats,
            system_prompt=self.stage.config.system_prompt,
        )

    def _forks(self, assignment: Assignment) -> int:
        """A game is never forked in the middle; at its start a fork is one more game."""
        config = self.stage.config
        return 0 if config.branching == "none" or assignment.purpose == "evaluate" else config.branches


@dataclass(frozen=True, kw_only=True, slots=True)
class _Games:
    """The games of one assignment."""

    stage: Stage
    env: EnvConfig
    config: ActorConfig
    choice: TaskChoice
    prompts: dict[tuple[Message, ...], Int32] = field(default_factory=dict)
    """As in `EpisodePlayer`: games that begin alike share a prompt."""

    async def seats(self) -> int:
        """Of the task's game; 0 if the environment plays all but one of them. Raises EnvFailure."""
        async with self.stage.slots.episode():
            game = await GameTable.opened(self.stage.host, self.env, self.choice)
            if game is None:
                return 0
            game.close()
            return len(game.seats)

    async def play(self, count: int, seats: int) -> list[Rollout]:
        """`count` games at once. Their rollouts in order, without those of seats that never came to move."""
        games = [
            [Rollout(index=number * seats + seat, seat=seat) for seat in range(seats)]
            for number in range(count)
        ]
        async with asyncio.TaskGroup() as tasks:
            for rollouts in games:
                tasks.create_task(self._play_game(rollouts))
        return [rollout for rollouts in games for rollout in rollouts]

    async def _play_game(self, rollouts: list[Rollout]) -> None:
        async with self.stage.slots.episode():
            try:
                game = await GameTable.opened(self.stage.host, self.env, self.choice)
            except EnvFailure as failure:
                self.give_up(rollouts, failure)
                return
            count = 0 if game is None else len(game.seats)
            try:
                if game is None or count != len(rollouts):
                    reason = f"{self.env.id}: expected {len(rollouts)} seats for the same seed, got {count}"
                    self.give_up(rollouts, EnvFailure(cause="environment", reason=reason))
                else:
                    await self._play_seats(game, rollouts)
            finally:
                if game is not None:
                    game.close()

    async def _play_seats(self, game: GameTable, rollouts: list[Rollout]) -> None:
        async with asyncio.TaskGroup() as tasks:
            seats = [
                tasks.create_task(self._play_seat(game, seat, rollout))
                for seat, rollout in zip(game.seats, rollouts, strict=True)
            ]
        fault = next(((r.cause, r.reason) for r in rollouts if r.cause != SCORED), None)
        played = [rollout for rollout, seat in zip(rollouts, seats, strict=True) if seat.result()]
        if not played:
            # Of a seat that is the policy's, so that its group has a leaf for each game.
            fault = fault or ("environment", f"{self.env.id}: the game was over before the policy's turn")
            idle = next((r for r in rollouts if r.prompt is None), rollouts[0])
            played = [Rollout(index=idle.index, seat=idle.seat)]
        rollouts[:] = played
        if fault is not None:
            whole = [rollout for rollout in rollouts if rollout.cause == SCORED]
            self.give_up(whole, EnvFailure(cause=fault[0], reason=fault[1]))

    async def _play_seat(self, game: GameTable, seat: str, rollout: Rollout) -> bool:
        """From a seat's first turn to its end. False: nothing of it is for the tree.

        The game was over before, or an earlier version played.
        """
        try:
            begun = await game.first(seat)
            if begun is None:
                return False
            task, earlier = begun
            policy = self._earlier() if earlier else self.stage.policy
        except EnvFailure as failure:
            self.give_up([rollout], failure)
            game.give_up(failure.cause, failure.reason)
            return True
        session = SeatSession(game=game, seat=seat)
        player = EpisodePlayer(
            env=self.env,
            config=self.config,
            renderer=self.stage.renderer,
            policy=policy,
            host=SeatHost(session=session, task=task, broken=self.stage.host.broken),
            task=self.choice,
            prompts=self.prompts,
        )
        await player.play(rollout)
        if rollout.cause != SCORED:
            game.give_up(rollout.cause, rollout.reason)
        return not earlier

    def _earlier(self) -> Policy:
        if self.stage.earlier is None:
            reason = f"{self.env.id}: its opponent is 'earlier', and actor.earlier_policy names no server"
            raise EnvFailure(cause="environment", reason=reason)
        return self.stage.earlier

    def give_up(self, rollouts: list[Rollout], failure: EnvFailure) -> None:
        """They are broken, and counted."""
        for rollout in rollouts:
            rollout.cause, rollout.reason = failure.cause, failure.reason
            self.stage.host.broken.add(self.env.id, failure.cause, failure.reason)
