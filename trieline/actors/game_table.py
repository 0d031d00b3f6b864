"""A game of several players in use: each seat is an episode, whose environment is the game with the others.

Invariant: one seat is to move at a time, and a seat hears what the game says to that seat, nothing else.
Seats whose turn has not come wait; an end, a cut or a fault wakes all of them.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from trieline.actors.broken_episodes import BrokenEpisodes
from trieline.actors.env_returns import Step, Task, checked_reset, checked_step
from trieline.actors.env_session import EnvHost, EnvSession, TaskChoice, TextEnv, env_method
from trieline.actors.errors import EnvFailure, ForkUnsupportedError
from trieline.envs.protocols import Table
from trieline.wire.config import EnvConfig

MOST_SEATS = 64
EARLIER = "earlier"
Outcome = tuple[object, ...]
"""What `last` gives, not believed yet."""
News = tuple[str, Outcome, bool]
"""For a seat, and whether it is the last for it."""


class GameTable:
    """One game, from its start to its end."""

    def __init__(self, config: EnvConfig, choice: TaskChoice, session: EnvSession, task: Task) -> None:
        """Use `opened`."""
        self._env_id = config.id
        self._seed = choice.seed
        self._session = session
        self._task = task
        self._table: Table | None = None
        self._heard: dict[str, asyncio.Queue[Outcome | Step | EnvFailure]] = {}
        self._over: set[str] = set()
        self._before: dict[str, float] = {}
        """What a seat got before its first move, which has no reply of its own to stand on."""
        self.seats: tuple[str, ...] = ()
        """In the order in which the game names them."""

    @classmethod
    async def opened(cls, host: EnvHost, config: EnvConfig, choice: TaskChoice) -> "GameTable | None":
        """The game of a task at its start; None if the environment plays the other seats itself.

        Raises:
            EnvFailure: it could not be made, hung, or is no table.
        """
        session, task = await host.open(config, choice)
        game = cls(config, choice, session, task)
        try:
            await game._begin()
        except BaseException:
            session.close()
            raise
        if game._table is None:
            session.close()
            return None
        return game

    async def first(self, seat: str) -> tuple[Task, bool] | None:
        """What a seat is shown before its first move, when that has come; None: the game was over before.

        And whether an earlier version of the policy is to play it.

        Raises:
            EnvFailure: the game broke.
        """
        heard = await self._next(seat)
        if isinstance(heard, Step):
            return None
        step = checked_step(heard, self._env_id)
        if step.terminated or step.truncated:
            return None
        self._before[seat] = step.reward
        start = checked_reset((heard[0], heard[4]), self._env_id, self._seed)
        info = cast("Mapping[str, object]", heard[4])  # as was just checked
        return replace(start, task_id=self._task.task_id), info.get("player") == EARLIER

    async def act(self, seat: str, action: str) -> Step:
        """A seat moves, and hears what there is when its turn has come again, or at its end.

        Raises:
            EnvFailure: the game broke, here or at another seat.
        """
        table = self._table
        assert table is not None, "the table is closed"
        self._tell(await self._session.call("step", lambda _: _moved(table, action)))
        heard = await self._next(seat)
        step = heard if isinstance(heard, Step) else checked_step(heard, self._env_id)
        return replace(step, reward=step.reward + self._before.pop(seat, 0.0))

    def cut(self, seat: str) -> None:
        """A limit ends the game at this seat, and with it for all others."""
        ending = Step(messages=(), reward=0.0, terminated=False, truncated=True, score="")
        self._end(ending, but=seat)

    def give_up(self, cause: str, reason: str) -> None:
        """A seat broke, and the game with it."""
        self._end(EnvFailure(cause=cause, reason=reason))

    def close(self) -> None:
        """Idempotent. The environment closes its table."""
        self._session.close()

    async def _begin(self) -> None:
        def begin(env: TextEnv) -> tuple[Table | None, list[News], tuple[str, ...]]:
            method = env_method(env, "table")
            table = None if method is None else cast("Table | None", method())
            if table is None:
                return None, [], ()
            seats = tuple(str(agent) for agent in table.agents)
            return table, _moved(table, None), seats

        self._table, news, self.seats = await self._session.call("table", begin)
        if self._table is not None and not 1 <= len(self.seats) <= MOST_SEATS:
            reason = f"{self._env_id}: expected a table of 1 to {MOST_SEATS} agents, got {len(self.seats)}"
            raise EnvFailure(cause="environment", reason=reason)
        self._heard = {seat: asyncio.Queue() for seat in self.seats}
        self._tell(news)

    def _tell(self, news: list[News]) -> None:
        for seat, outcome, over in news:
            if seat not in self._heard or seat in self._over:
                reason = f"{self._env_id}: expected an agent out of {self.seats} that plays, got {seat!r}"
                raise EnvFailure(cause="environment", reason=reason)
            if over:
                self._over.add(seat)
            self._heard[seat].put_nowait(outcome)

    def _end(self, last: Step | EnvFailure, but: str | None = None) -> None:
        for seat, heard in self._heard.items():
            if seat not in self._over and seat != but:
                heard.put_nowait(last)
        self._over.update(self.seats)

    async def _next(self, seat: str) -> Outcome | Step:
        heard = await self._heard[seat].get()
        if isinstance(heard, EnvFailure):
            raise heard
        return heard


def _moved(table: Table, action: str | None) -> list[News]:
    """Make a move, None: none. Returns what the next seat to move and those whose game is over hear.

    It blocks for as long as the game takes.
    """
    if action is not None:
        table.step(action)
    news: list[News] = []
    for _ in range(MOST_SEATS):
        if not table.agents:
            break
        seat, outcome = str(table.agent_selection), tuple(table.last())
        if len(outcome) != 5:
            msg = f"expected 5 values of last(), got {len(outcome)}"
            raise ValueError(msg)
        over = bool(outcome[2] or outcome[3])
        news.append((seat, outcome, over))
        if not over:
            break
        table.step(None)
    return news


@dataclass(frozen=True, kw_only=True, slots=True)
class SeatSession:
    """One seat, as its episode sees it: an environment that answers when its turn has come again."""

    game: GameTable
    seat: str

    async def step(self, action: str) -> Step:
        """As in `Session`."""
        return await self.game.act(self.seat, action)

    async def finish(self) -> None:
        """As in `Session`. The game is over for the others, too."""
        self.game.cut(self.seat)

    async def fork(self) -> "SeatSession":
        """Raises ForkUnsupportedError: another seat can't be taken back to where this one is."""
        msg = "a seat at a table has no fork"
        raise ForkUnsupportedError(msg)

    def close(self) -> None:
        """The game is closed by who opened it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeatHost:
    """Opens one seat, whose first turn has come."""

    session: SeatSession
    task: Task
    broken: BrokenEpisodes

    async def open(self, config: EnvConfig, choice: TaskChoice) -> tuple[SeatSession, Task]:
        """As in `Host`."""
        return self.session, self.task
