"""A run of Trieline on given machines, simulated from measured costs: throughput, lag, and what limits them.

What is simulated is what the programs do: the learner asks for no more than (max_staleness + 1) x
trees_per_step trees (`learner.intake.staleness`), a worker plays so many episodes at once, one task's
requests go to one server, a tree is sent when the last of its rollouts has ended, a step takes the first
trees that are there, and new weights reach all servers before more trees are asked for.
"""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from benchmarks.scale_stations import Clock, Machine, Station


class Costs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one of each costs. Processor seconds, where nothing else is said; bytes."""

    turn_s: float
    """Of an actor's worker for a turn: environment, chat, messages."""
    server_step_s: float
    """Of a decoding step, however many rows there are."""
    server_row_s: float
    """Of one more row in a step."""
    prompt_token_s: float
    """Of a prompt's token that the cache does not have."""
    request_s: float = 0.0
    """Of the policy server for a request, whatever its length."""
    learner_step_s: float
    learner_token_s: float
    """Of a unique token of the step's tries."""
    publish_s: float
    """From the end of a step until a server beside it serves the weights, the wire left out."""
    weights_bytes: float
    token_bytes: float = 16.6
    """Of a tree as it travels (`benchmarks/wire.py`)."""


class Workload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Episodes to play: recorded ones, drawn at random."""

    episodes: list[list[tuple[int, int]]]
    """For each its turns: new prompt tokens that no other rollout shares, and sampled tokens."""
    shared_tokens: float
    """Of a tree: the prompt that its rollouts have in common."""
    group_size: int
    env_s: float = 0.0
    """That the environment takes for a turn beside the worker's processor: a sandbox, say."""


class MachineSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One machine, or `count` alike."""

    cores: float
    count: int = 1
    learner: bool = False
    learner_threads: float = 1.0
    policy_servers: int = 0
    server_threads: float = 1.0
    max_rows: int = 64
    workers: int = 0
    episodes: int = 64
    """That a worker plays at once."""
    speed: float = 1.0
    """Of its policy servers, against the costs given: an engine on a GPU, say."""
    bytes_per_s: float = 1e9


class RunSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the learner, and how long to simulate."""

    trees_per_step: int
    max_staleness: int
    steps: int = 20
    learner_speed: float = 1.0
    """Against the costs given: ranks that divide a step, say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Means over the steps after the first two."""

    sampled_tokens_per_s: float
    step_s: float
    staleness: float
    """Versions between the weights that sampled a tree's first token and those that it trained."""
    busy: dict[str, float]
    """Share of the time in which there was work: the learner's, servers' and workers' mean."""
    episodes_at_once: int


@dataclass(slots=True)
class _Tree:
    server: int
    turns: list[deque[tuple[int, int]]]
    left: int
    version: int = -1
    """That its first token was sampled with."""
    unique_tokens: float = 0.0
    sampled: int = 0


@dataclass(slots=True)
class _Worker:
    station: Station
    wire: Station
    slots: int
    playing: int = 0
    trees: deque[_Tree] = field(default_factory=deque)
    """With rollouts that have no slot yet."""


class Simulation:
    """Call `run` once."""

    def __init__(
        self, costs: Costs, load: Workload, machines: Sequence[MachineSpec], run: RunSpec, seed: int = 0
    ) -> None:
        self._costs, self._load, self._run = costs, load, run
        self._draw = random.Random(seed)
        self._clock = Clock()
        self._workers: list[_Worker] = []
        self._servers: list[tuple[Station, Station]] = []
        """Each with the wire that its weights come over."""
        self._learners: list[tuple[Station, Station]] = []
        for spec in machines:
            for _ in range(spec.count):
                self._add_machine(spec)
        if len(self._learners) != 1 or not self._servers or not self._workers:
            msg = (
                "expected one learner, a policy server and a worker at least, got "
                f"{len(self._learners)}, {len(self._servers)} and {len(self._workers)}"
            )
            raise ValueError(msg)
        self._version = 0
        self._under_way = 0
        self._next_worker = 0
        self._buffer: deque[_Tree] = deque()
        self._stepping = False
        self._steps: list[tuple[float, int, float]] = []
        """When each ended, with its sampled tokens and mean staleness."""

    def _add_machine(self, spec: MachineSpec) -> None:
        costs, machine = self._costs, Machine(spec.cores)
        wire = Station(self._clock, machine, lambda _: 1.0 / spec.bytes_per_s, threads=0.0)
        if spec.learner:
            self._learners.append((self._one_by_one(machine, spec.learner_threads), wire))
        for _ in range(spec.policy_servers):
            step_s, row_s = costs.server_step_s / spec.speed, costs.server_row_s / spec.speed
            station = Station(
                self._clock,
                machine,
                lambda rows, step_s=step_s, row_s=row_s: step_s + row_s * rows,  # type: ignore[misc]
                threads=spec.server_threads,
                places=spec.max_rows,
            )
            self._servers.append((station, wire))
        for _ in range(spec.workers):
            self._workers.append(_Worker(self._one_by_one(machine, 1.0), wire, spec.episodes))

    def _one_by_one(self, machine: Machine, threads: float) -> Station:
        return Station(self._clock, machine, lambda _: 1.0, threads=threads)

    def run(self) -> Prediction:
        self._ask()
        self._clock.run(lambda: len(self._steps) >= self._run.steps)
        first = min(2, len(self._steps) - 1)
        began, counted = self._steps[first - 1][0] if first else 0.0, self._steps[first:]
        seconds = counted[-1][0] - began
        return Prediction(
            sampled_tokens_per_s=sum(tokens for _, tokens, _ in counted) / seconds,
            step_s=seconds / len(counted),
            staleness=sum(lag for _, _, lag in counted) / len(counted),
            busy={
                "learner": self._learners[0][0].busy_s / self._clock.now,
                "policy servers": self._mean_busy([server for server, _ in self._servers]),
                "workers": self._mean_busy([worker.station for worker in self._workers]),
                "learner's wire": self._learners[0][1].busy_s / self._clock.now,
            },
            episodes_at_once=sum(worker.slots for worker in self._workers),
        )

    def _mean_busy(self, stations: Sequence[Station]) -> float:
        return sum(station.busy_s for station in stations) / len(stations) / self._clock.now

    # Asking for trees, as the learner does.

    def _ask(self) -> None:
        room = (self._run.max_staleness + 1) * self._run.trees_per_step - self._under_way - len(self._buffer)
        for _ in range(room):
            self._under_way += 1
            worker = self._workers[self._next_worker % len(self._workers)]
            self._next_worker += 1
            turns = [deque(self._draw.choice(self._load.episodes)) for _ in range(self._load.group_size)]
            worker.trees.append(
                _Tree(
                    self._draw.randrange(len(self._servers)),
                    turns,
                    len(turns),
                    unique_tokens=self._load.shared_tokens,
                )
            )
            self._fill(worker)

    # Playing, as an actor does.

    def _fill(self, worker: _Worker) -> None:
        while worker.trees and worker.playing < worker.slots:
            tree = worker.trees[0]
            turns = tree.turns.pop()
            if not tree.turns:
                worker.trees.popleft()
            worker.playing += 1
            self._play(worker, tree, turns)

    def _play(self, worker: _Worker, tree: _Tree, turns: deque[tuple[int, int]]) -> None:
        if not turns:
            worker.playing -= 1
            tree.left -= 1
            if not tree.left:
                size = tree.unique_tokens * self._costs.token_bytes
                worker.wire.take(size, lambda: self._learners[0][1].take(size, lambda: self._arrive(tree)))
            self._fill(worker)
            return
        prompt, sampled = turns.popleft()
        tree.unique_tokens += prompt + sampled
        tree.sampled += sampled

        def ask() -> None:
            if tree.version < 0:
                tree.version = self._version
            stall = self._costs.request_s + prompt * self._costs.prompt_token_s
            self._servers[tree.server][0].take(sampled, answered, stall_s=stall)

        def answered() -> None:
            self._clock.after(self._load.env_s, lambda: self._play(worker, tree, turns))

        worker.station.take(self._costs.turn_s, ask)

    # Training, as the learner does.

    def _arrive(self, tree: _Tree) -> None:
        self._under_way -= 1
        self._buffer.append(tree)
        self._step()

    def _step(self) -> None:
        if self._stepping or len(self._buffer) < self._run.trees_per_step:
            return
        self._stepping = True
        trees = [self._buffer.popleft() for _ in range(self._run.trees_per_step)]
        tokens = sum(tree.unique_tokens for tree in trees)
        seconds = self._costs.learner_step_s + tokens * self._costs.learner_token_s
        lag = sum(self._version - tree.version for tree in trees) / len(trees)
        sampled = sum(tree.sampled for tree in trees)
        self._learners[0][0].take(seconds / self._run.learner_speed, lambda: self._publish(sampled, lag))

    def _publish(self, sampled: int, lag: float) -> None:
        waiting = len(self._servers)

        def served() -> None:
            nonlocal waiting
            waiting -= 1
            if waiting:
                return
            self._version += 1
            self._steps.append((self._clock.now, sampled, lag))
            self._stepping = False
            self._ask()
            self._step()

        own, size = self._learners[0][1], self._costs.weights_bytes
        for _, wire in self._servers:

            def load() -> None:
                self._clock.after(self._costs.publish_s, served)

            if wire is own:  # of one machine: a file
                load()
            else:
                own.take(size, lambda wire=wire: wire.take(size, load))  # type: ignore[misc]
