"""Where work waits and is done, in simulated time: cores, decoders, learners and wires are all one thing.

A station has jobs, each of so many units of work, and moves all of them on at one rate, which depends on how
many there are: a decoder emits a token for each of r rows every a + b r seconds, a worker process does one
thing after the other, a wire carries one message after the other. Stations of a machine share its cores: when
they want more threads than it has, all go slower in proportion.

Between two changes the rates are constant, so that time jumps from change to change: the cost of a simulation
is that of its jobs, not of its tokens. (Egalitarian processor sharing in virtual time, as in Kleinrock,
Queueing Systems II, 4.4.)
"""

import heapq
from collections import deque
from collections.abc import Callable
from itertools import count

Call = Callable[[], object]


class Clock:
    """Simulated seconds, and what is to happen when."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Call]] = []
        self._order = count()

    def after(self, seconds: float, call: Call) -> None:
        """Call it so many seconds from now; calls of one moment in the order in which they were asked for."""
        heapq.heappush(self._events, (self.now + seconds, next(self._order), call))

    def run(self, done: Callable[[], bool]) -> None:
        """Go on until `done`.

        Raises:
            RuntimeError: nothing is left that could happen.
        """
        while not done():
            if not self._events:
                msg = f"everybody waits for somebody else after {self.now:.3f} simulated seconds"
                raise RuntimeError(msg)
            self.now, _, call = heapq.heappop(self._events)
            call()


class Machine:
    """Cores, and the stations that want them."""

    def __init__(self, cores: float) -> None:
        self.cores = cores
        self.share = 1.0
        """Of the threads that the stations want, what they get."""
        self._wanted = 0.0
        self._stations: list[Station] = []

    def add(self, station: "Station") -> None:
        self._stations.append(station)

    def want(self, threads: float) -> None:
        """A station begins to compute with so many threads, or ends (negative)."""
        self._wanted += threads
        share = min(1.0, self.cores / self._wanted) if self._wanted > 0 else 1.0
        if share == self.share:
            return
        for station in self._stations:
            station.settle()
        self.share = share
        for station in self._stations:
            station.plan()


class Station:
    """Jobs side by side, each of so many units; those beyond `places` wait in order."""

    def __init__(
        self,
        clock: Clock,
        machine: Machine,
        seconds_a_unit: Callable[[int], float],
        *,
        threads: float = 1.0,
        places: int = 1,
    ) -> None:
        self.busy_s = 0.0
        """Time in which there was work."""
        self._clock, self._machine = clock, machine
        self._seconds_a_unit = seconds_a_unit
        self._threads, self._places = threads, places
        self._jobs: list[tuple[float, int, Call]] = []
        """By the reading of `_units` at which each is done."""
        self._waiting: deque[tuple[float, float, Call]] = deque()
        self._units = 0.0
        """What each job that was there all the time has got."""
        self._stalled_s = 0.0
        """Time that all jobs have yet to wait before they move on."""
        self._settled_at = 0.0
        self._plans = 0
        self._order = count()
        machine.add(self)

    def __len__(self) -> int:
        """Jobs that are here, those that wait included."""
        return len(self._jobs) + len(self._waiting)

    def take(self, units: float, done: Call, *, stall_s: float = 0.0) -> None:
        """A job. `stall_s`: what all jobs here wait when it gets its place (its prompt is read, say)."""
        if len(self._jobs) >= self._places:
            self._waiting.append((units, stall_s, done))
            return
        self.settle()
        if not self._jobs:
            self._machine.want(self._threads)
        self._seat(units, stall_s, done)
        self.plan()

    def settle(self) -> None:
        """Give the jobs what they got since this was last asked."""
        passed = self._clock.now - self._settled_at
        self._settled_at = self._clock.now
        if not self._jobs or passed <= 0.0:
            return
        self.busy_s += passed
        passed *= self._machine.share
        stalled = min(self._stalled_s, passed)
        self._stalled_s -= stalled
        self._units += (passed - stalled) / self._seconds_a_unit(len(self._jobs))

    def plan(self) -> None:
        """Say when the next job is done. Older plans count no more."""
        self._plans += 1
        if not self._jobs:
            return
        left = max(0.0, self._jobs[0][0] - self._units) * self._seconds_a_unit(len(self._jobs))
        plan = self._plans
        self._clock.after((self._stalled_s + left) / self._machine.share, lambda: self._finish(plan))

    def _finish(self, plan: int) -> None:
        if plan != self._plans:
            return
        self.settle()
        due, _, done = heapq.heappop(self._jobs)
        self._units = max(self._units, due)
        if self._waiting:
            self._seat(*self._waiting.popleft())
        if not self._jobs:
            self._machine.want(-self._threads)
        self.plan()
        done()

    def _seat(self, units: float, stall_s: float, done: Call) -> None:
        self._stalled_s += stall_s
        heapq.heappush(self._jobs, (self._units + units, next(self._order), done))
