"""The requests of an engine of others: how many are asked at once, and which is next."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from trieline.learner.policy_server.engine import Ticket
from trieline.wire.messages import GenerateRequest


@dataclass(frozen=True, slots=True)
class _Asked:
    request: GenerateRequest
    task: "asyncio.Task[None]"


class Turns:
    """They are asked in the order in which they came, each by a task. Of one event loop alone."""

    def __init__(
        self, ask: Callable[[Ticket, GenerateRequest], Coroutine[Any, Any, None]], limit: Callable[[], int]
    ) -> None:
        """`ask` ends with the answer. `limit`: at once, as it is now."""
        self._ask = ask
        self._limit = limit
        self._waiting: dict[Ticket, GenerateRequest] = {}
        self._asked: dict[Ticket, _Asked] = {}

    def add(self, ticket: Ticket, request: GenerateRequest) -> None:
        self._waiting[ticket] = request
        self.go_on()

    def go_on(self) -> None:
        """Ask as many as may be asked by now."""
        while self._waiting and len(self._asked) < self._limit():
            ticket = next(iter(self._waiting))
            request = self._waiting.pop(ticket)
            task = asyncio.get_running_loop().create_task(self._ask(ticket, request))
            self._asked[ticket] = _Asked(request, task)
            task.add_done_callback(partial(self._ended, ticket))

    def forget(self, ticket: Ticket) -> None:
        """Nobody waits for its answer. Unknown: does nothing."""
        self._waiting.pop(ticket, None)
        if (asked := self._asked.get(ticket)) is not None:
            asked.task.cancel()

    def take_back(self) -> None:
        """What has no answer waits again, before the others."""
        self._waiting = {ticket: one.request for ticket, one in self._asked.items()} | self._waiting
        for one in self._asked.values():
            one.task.cancel()
        self._asked.clear()

    def end(self) -> "list[asyncio.Task[None]]":
        """Forget all; the tasks that are yet to end."""
        self._waiting.clear()
        tasks = [one.task for one in self._asked.values()]
        for task in tasks:
            task.cancel()
        return tasks

    def _ended(self, ticket: Ticket, task: "asyncio.Task[None]") -> None:
        # It may have been taken back, and asked anew.
        if (asked := self._asked.get(ticket)) is not None and asked.task is task:
            del self._asked[ticket]
            self.go_on()
