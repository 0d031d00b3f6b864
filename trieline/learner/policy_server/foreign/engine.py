"""An engine of others behind the policy server's contract: requests go to it over HTTP, each on its own.

The policy server's thread submits and collects; another thread has the connections. No more is asked at once
than there are rows, so that a request's time limit counts no waiting for one. An engine that is not there, or
answers nobody in time, is *away*: what it was asked is refused as `failed`, with its address, so that another
server is asked; it is looked at until it is back, and is given the newest weights again before anything is
asked of it.
"""

import asyncio
import logging
import secrets
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trieline.common.complaints import Complaints
from trieline.common.file_lock import reading
from trieline.learner.errors import CheckpointError
from trieline.learner.policy_server.engine import Finished, Refused, Ticket
from trieline.learner.policy_server.errors import (
    EngineAwayError,
    EngineError,
    EngineLateError,
    InvalidRequestError,
)
from trieline.learner.policy_server.foreign.child_engine import ChildEngine
from trieline.learner.policy_server.foreign.dialect import Abilities, Dialect, Labels, Served
from trieline.learner.policy_server.foreign.http_link import HttpLink
from trieline.learner.policy_server.foreign.staged_weights import StagedWeights
from trieline.learner.policy_server.foreign.turns import Turns
from trieline.learner.policy_server.request_checks import expect_possible
from trieline.wire.messages import Completion, GenerateRequest, Sampling

log = logging.getLogger(__name__)

# How long `step` waits for an answer: the delay of new requests.
STEP_WAIT_S = 0.01
# How often the engine is looked at.
LOOK_S = 2.0
HEALTH_S = 5.0
START_LOOK_S = 0.5
"""How often it is looked at until it is up."""
SLOW = 0.5
"""Of the time limit of a request, after which an answer is called slow."""
TRIAL_S = 10.0
"""For one token, of an engine that is asked for nothing else meanwhile."""

TRIAL = GenerateRequest(request_id=0, prompt=np.zeros(1, np.int32), sampling=Sampling(max_tokens=1))


class ForeignEngine:
    """See `engine.Engine`. `start` first."""

    def __init__(
        self,
        dialect: Dialect,
        served: Served,
        weights: StagedWeights,
        *,
        make_link: Callable[[], HttpLink],
        child: ChildEngine | None = None,
    ) -> None:
        """`make_link` is called in the loop of the connections. `child`: it runs there; not ended by this."""
        self.policy_version = 0
        self.tokens_generated = 0
        self.admits = True  # What is submitted is on its way at once, whatever this says.
        self._dialect = dialect
        self._served = served
        self._weights = weights
        self._make_link = make_link
        self._child = child
        self._labels = Labels(secrets.token_hex(4))
        self._abilities = Abilities(max_context=served.config.max_context, max_logprobs=0)
        self._open: dict[Ticket, GenerateRequest] = {}
        """Without an answer, those that wait for a row among them."""
        self._came = threading.Condition()
        self._answers: list[Finished | Refused] = []
        self._refused: list[Refused] = []
        self._complaints = Complaints(dialect.kind)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine's connections")
        self._link: HttpLink | None = None
        self._giver: asyncio.Task[Any] | None = None
        """Gives weights, or gave the last ones."""
        self._watch: asyncio.Task[None] | None = None
        # Of the loop's thread alone.
        self._away = ""
        self._turns = Turns(self._answer, self._at_once)
        self._answered_at = 0.0
        self._doubt: asyncio.Task[None] | None = None
        """Finds out whether it hangs."""
        self._newest: tuple[Path, int] | None = None
        self._giving = asyncio.Lock()
        """Held while weights are given: one version after the other, whoever gives it."""
        self._loading = False

    def start(self, gives_up: Callable[[], str] = str) -> None:
        """Wait until it is up, and see what it is. Raises EngineError, also if `gives_up` says why."""
        self._thread.start()
        begun = asyncio.run_coroutine_threadsafe(self._begin(), self._loop)
        while not wait([begun], START_LOOK_S).done:
            if self._child is not None:
                self._child.expect_alive()
            if why := gives_up():
                msg = f"waited for {self._name()} until {why}"
                raise EngineError(msg)
        begun.result()

    @property
    def name(self) -> str:
        return self._served.config.backend

    @property
    def entropies(self) -> Literal["exact", "estimated", "unknown"]:
        return "estimated" if self._served.config.engine.top_logprobs else "unknown"

    @property
    def vocab_size(self) -> int:
        return self._served.vocab_size

    @property
    def max_context(self) -> int:
        return min(self._served.config.max_context, self._abilities.max_context)

    @property
    def dtype(self) -> str:
        return self._served.dtype

    @property
    def running(self) -> int:
        return min(len(self._open), self._served.config.max_rows)

    @property
    def waiting(self) -> int:
        return len(self._open) - self.running

    def check(self, request: GenerateRequest) -> None:
        expect_possible(request, vocab_size=self.vocab_size, max_context=self.max_context)
        if refusal := self._dialect.refusal(request.sampling, self._abilities):
            raise InvalidRequestError(refusal)

    def submit(self, peer: bytes, request: GenerateRequest) -> None:
        ticket = peer, request.request_id
        self._open[ticket] = request
        self._loop.call_soon_threadsafe(self._turns.add, ticket, request)

    def cancel(self, ticket: Ticket) -> None:
        """Its connection is closed, by which the engine knows."""
        if self._open.pop(ticket, None) is not None:
            self._loop.call_soon_threadsafe(self._turns.forget, ticket)

    def step(self) -> list[Finished]:
        """What has been answered by now; waits a little for the first.

        Raises:
            EngineGoneError: it was started here and has ended.
        """
        if self._child is not None:
            self._child.expect_alive()
        with self._came:
            if not self._answers and self._open:
                self._came.wait(STEP_WAIT_S)
            answers, self._answers = self._answers, []
        finished: list[Finished] = []
        for answer in answers:
            # Of a request that was cancelled meanwhile: nobody waits for it.
            if self._open.pop(answer.ticket, None) is None:
                continue
            if isinstance(answer, Refused):
                self._refused.append(answer)
                continue
            finished.append(answer)
            self.tokens_generated += len(answer.completion.token_ids)
        return finished

    def take_refused(self) -> list[Refused]:
        refused, self._refused = self._refused, []
        return refused

    def load(self, weights: Path, policy_version: int) -> Future[None]:
        """Change the weights, in the loop of the connections."""
        return asyncio.run_coroutine_threadsafe(self._load(weights, policy_version), self._loop)

    def drain(self) -> list[Ticket]:
        tickets = list(self._open)
        for ticket in tickets:
            self.cancel(ticket)
        with self._came:
            self._answers.clear()
        return tickets

    def close(self) -> None:
        if self._thread.is_alive():
            if not wait([asyncio.run_coroutine_threadsafe(self._end(), self._loop)], HEALTH_S).done:
                log.warning("connections to %s did not close within %g s", self._name(), HEALTH_S)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        self._weights.close()

    def _name(self) -> str:
        return self._link.name if self._link is not None else self._dialect.kind

    # ---- in the loop of the connections --------------------------------------------------------------------

    async def _begin(self) -> None:
        self._giver = asyncio.current_task()
        link = self._link = self._make_link()
        deadline = time.monotonic() + self._served.config.engine.startup_timeout_s
        while reason := await link.is_there("/health", timeout_s=HEALTH_S):
            if time.monotonic() >= deadline:
                msg = f"waited {self._served.config.engine.startup_timeout_s:g} s for an engine: {reason}"
                raise EngineError(msg)
            await asyncio.sleep(START_LOOK_S)
        self._abilities = await self._dialect.look(link)
        await self._dialect.load(link, self._served.folder, self._labels.of(0))
        # The first request has it compile what it computes with: a minute or two on a busy CPU.
        usual_s, link.timeout_s = link.timeout_s, self._served.config.engine.startup_timeout_s
        await self._dialect.generate(link, TRIAL, self._labels, self._abilities)
        link.timeout_s = usual_s
        log.info("%s is up: %d tokens of context", link.name, self._abilities.max_context)
        self._watch = asyncio.create_task(self._look_after(link))

    async def _end(self) -> None:
        tasks = [task for task in (self._watch, self._giver, self._doubt) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._turns.end(), return_exceptions=True)
        if self._link is not None:
            await self._link.close()

    def _at_once(self) -> int:
        """As many requests may be asked now."""
        if self._away:
            # All, to be told so.
            return sys.maxsize
        # While weights are read, one that keeps no requests is asked nothing.
        if self._doubt is not None or (self._loading and not self._dialect.keeps_requests):
            return 0
        return self._served.config.max_rows

    def _gone(self, reason: str) -> None:
        self._away = reason
        self._turns.go_on()

    async def _answer(self, ticket: Ticket, request: GenerateRequest) -> None:
        answer: Finished | Refused
        try:
            answer = Finished(ticket=ticket, completion=await self._generate(request))
        except InvalidRequestError as error:
            answer = Refused(ticket=ticket, kind="invalid", reason=str(error))
        except EngineError as error:
            answer = Refused(ticket=ticket, kind="failed", reason=str(error))
        except Exception as error:
            log.exception("a request failed")
            answer = Refused(ticket=ticket, kind="failed", reason=f"{type(error).__name__}: {error}")
        with self._came:
            self._answers.append(answer)
            self._came.notify()

    async def _generate(self, request: GenerateRequest) -> Completion:
        link = self._link
        assert link is not None, "started"
        if self._away:
            raise EngineAwayError(self._away)
        began, limit_s = time.monotonic(), self._served.config.engine.request_timeout_s
        try:
            completion = await self._dialect.generate(link, request, self._labels, self._abilities)
        except EngineError as error:
            self._complaints.add("requests that failed", error)
            if not self._away and not self._loading:
                self._blame(link, error, began)
            raise
        self._answered_at = time.monotonic()
        if (seconds := self._answered_at - began) > SLOW * limit_s:
            self._complaints.add("slow answers", f"{link.name} took {seconds:.0f} of {limit_s:g} s")
        return completion

    def _blame(self, link: HttpLink, error: EngineError, began: float) -> None:
        """See what the error says of the engine itself. `began`: when it was asked."""
        if isinstance(error, EngineAwayError):
            self._gone(str(error))
        # One that has answered others since is only slow.
        elif isinstance(error, EngineLateError) and self._answered_at < began and self._doubt is None:
            self._doubt = asyncio.get_running_loop().create_task(self._settle(link, error))

    async def _settle(self, link: HttpLink, late: EngineError) -> None:
        """Find out whether it hangs: one token is asked for, for which there is a row, and nothing else."""
        try:
            async with self._giving:
                await self._try(link)
        except (EngineError, TimeoutError):
            self._away = self._away or str(late)
        except InvalidRequestError:
            log.debug("an answer, though none with a token")
        finally:
            self._doubt = None
            self._turns.go_on()

    async def _try(self, link: HttpLink) -> None:
        async with asyncio.timeout(min(TRIAL_S, self._served.config.engine.request_timeout_s)):
            await self._dialect.generate(link, TRIAL, self._labels, self._abilities)

    async def _load(self, weights: Path, policy_version: int) -> None:
        self._giver = asyncio.current_task()
        before, self._newest = self._newest, (weights, policy_version)
        try:
            await self._give_newest()
        except EngineError as error:
            self._gone(str(error))
            raise
        except (CheckpointError, OSError):
            self._newest = before
            raise
        self.policy_version = policy_version
        self._away = ""

    async def _give_newest(self) -> None:
        async with self._giving:
            assert self._newest is not None, "some were given"
            await self._give(*self._newest)

    async def _give(self, weights: Path, policy_version: int) -> None:
        link = self._link
        assert link is not None, "started"
        label = self._labels.of(policy_version)
        with reading(weights):
            folder = await asyncio.to_thread(self._weights.stage, weights, label)
            self._loading = True
            if not self._dialect.keeps_requests:
                self._turns.take_back()
            try:
                await self._dialect.load(link, folder, label)
            finally:
                self._loading = False
                self._turns.go_on()

    async def _look_after(self, link: HttpLink) -> None:
        """Find out that it is gone, and that it is back."""
        while True:
            await asyncio.sleep(LOOK_S)
            reason = await link.is_there("/health", timeout_s=HEALTH_S)
            if reason and not self._away:
                self._gone(reason)
            if not self._away:
                continue
            self._complaints.add("looks at an engine that is away", self._away, level=logging.ERROR)
            if not reason and not self._loading:
                await self._try_again(link)

    async def _try_again(self, link: HttpLink) -> None:
        """It lives: see whether it works, with the newest weights."""
        try:
            self._abilities = await self._dialect.look(link)
            if self._newest is None:
                await self._dialect.load(link, self._served.folder, self._labels.of(0))
            else:
                await self._give_newest()
            await self._try(link)
        except (EngineError, InvalidRequestError, CheckpointError, TimeoutError, OSError) as error:
            self._complaints.add("engines that did not come back", error)
            return
        log.info("%s is back", link.name)
        self._away = ""
