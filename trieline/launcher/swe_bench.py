"""`trieline bench swe`: a policy plays the tasks of a data set, or brings its patches along; all are graded.

What is done is kept an attempt at a task at a time, so a run that was killed goes on with `--resume`, plays
no episode again whose prediction is kept, and grades nothing twice. What fails for the sandbox's or the
policy server's sake is tried again, and then told apart from a wrong patch.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from trieline.common.file_lock import file_lock
from trieline.common.folders import write_whole
from trieline.common.signals import on_stop_signal
from trieline.common.text import shortened
from trieline.config import ConfigError
from trieline.envs.errors import SandboxError, TaskError
from trieline.envs.sandbox import Sandbox, SandboxLimits
from trieline.envs.swe.grading import exam_of, grade
from trieline.envs.swe.predictions import Prediction, read_predictions
from trieline.envs.swe.repository_task import RepositoryTask, row_of
from trieline.envs.swe.results import Result
from trieline.envs.swe.workspaces import GRADING
from trieline.launcher.bench_attempts import Attempt, summary_of, summary_text, what_came, write_json
from trieline.launcher.bench_player import BrokenEpisodeError, Played, StoppedError
from trieline.launcher.bench_progress import BenchProgress
from trieline.launcher.bench_trees import BenchTrees, Key
from trieline.wire.journal_header import JournalHeader

TRIES = 3
"""Of what a sandbox or a policy server fails."""
TICK_S = 0.5
ROWS_FILE = "tasks.jsonl"
"""The tasks that are played: a data set may have more, in other splits."""

OpenWorkspace = Callable[[RepositoryTask, SandboxLimits], Sandbox]


class Player(Protocol):
    """`bench_player.BenchPlayer`, as far as it is used here."""

    def play(self, instance_id: str, attempt: int) -> Played: ...

    def stop(self) -> None: ...

    def check(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Playing:
    """A policy that makes its predictions in the run."""

    open_player: Callable[[threading.Event], AbstractContextManager[Player]]
    """What it needs runs inside. The event: the run is to stop. Raises StoppedError if it came too early."""
    header: JournalHeader | None
    """Of the journal of its trees."""
    prepare: Callable[[], None] = lambda: None
    """Called before anything else, with the folder locked."""


@dataclass(frozen=True, kw_only=True)
class SweBench:
    """One run. Its files are those of `results`, `bench_attempts` and `bench_trees`."""

    tasks: Sequence[RepositoryTask]
    policy: Mapping[str, Prediction] | Playing
    """The predictions by instance id, or what makes them."""
    model: str
    """Of the predictions."""
    folder: Path
    run_id: str
    open_workspace: OpenWorkspace
    """A clean one of a task."""
    attempts: int = 1
    """At each task; more than one only of a policy that plays."""
    workers: int = 1
    """Instances at once."""
    wall_seconds: float = GRADING.wall_seconds
    """For the tests of one instance."""
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self, *, resume: bool) -> bool:
        """Do what is not done yet and write the report. False if it was stopped.

        Raises:
            ConfigError: there are results of such a run, and it is not to be resumed, or what was run before
                had other settings.
            DataError: the model's name can't be that of a folder.
            JournalError, WireError: trees can't be kept, or no policy answers.
            LockError: another process works on them.
            OSError: they can't be written; names the file.
        """
        fixed = None if isinstance(self.policy, Playing) else self.policy
        attempts = [
            Attempt(self.folder, n, run_id=self.run_id, model=self.model, fixed=fixed)
            for n in range(1, self.attempts + 1)
        ]
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(
                file_lock(self.folder / ".lock", what="to grade in its folder", timeout_s=0.0)
            )
            ids = [task.instance_id for task in self.tasks]
            for attempt in attempts:
                attempt.read(ids)
            self._expect_fresh(attempts, resume=resume)
            stack.enter_context(on_stop_signal(lambda name: self._stop.set()))
            trees = None
            if isinstance(self.policy, Playing):
                self.policy.prepare()
                rows = "".join(json.dumps(row_of(task)) + "\n" for task in self.tasks)
                write_whole(self.folder / ROWS_FILE, rows.encode())
                trees = BenchTrees(self.folder, self.policy.header)
                stack.callback(trees.close)
            for attempt in attempts:
                attempt.begin()
            work = _Work(bench=self, attempts=attempts, trees=trees)
            broken = work.run()
            if self._stop.is_set():
                return False
            summary = self._write(attempts, trees, broken)
        work.progress.end(summary_text(summary), *(f"report: {a.files.report_path}" for a in attempts))
        return True

    def _expect_fresh(self, attempts: Sequence[Attempt], *, resume: bool) -> None:
        playing = isinstance(self.policy, Playing)
        done = {i for a in attempts for i in (*a.results, *(a.predictions if playing else ()))}
        if done and not resume:
            msg = (
                f"expected no results of run {self.run_id!r} in {self.folder}, found those of "
                f"{len(done)} instances; --resume goes on with them"
            )
            raise ConfigError(msg)

    def _write(
        self, attempts: Sequence[Attempt], trees: BenchTrees | None, broken: Mapping[Key, str]
    ) -> dict[str, object]:
        """Reports and summaries."""
        ids = [task.instance_id for task in self.tasks]
        for attempt in attempts:
            attempt.write_report(ids)
        keys = [(a.number, i) for a in attempts for i in a.predictions]
        facts = {key: found for key in keys if trees is not None and (found := trees.facts(key)) is not None}
        summary = summary_of(ids, attempts, facts, broken)
        write_json(self.folder / "summary.json", summary)
        write_whole(self.folder / "summary.md", summary_text(summary).encode())
        return summary


@dataclass(kw_only=True)
class _Work:
    """What is left to do, and its doing."""

    bench: SweBench
    attempts: Sequence[Attempt]
    trees: BenchTrees | None

    def __post_init__(self) -> None:
        self._left = [
            (attempt, task)
            for task in self.bench.tasks
            for attempt in self.attempts
            if not self._is_done(attempt, task.instance_id)
        ]
        total = len(self.attempts) * len(self.bench.tasks)
        resolved = sum(r.resolved for a in self.attempts for r in a.results.values())
        self.progress = BenchProgress(left=len(self._left), total=total, resolved=resolved)

    def _is_done(self, attempt: Attempt, instance_id: str) -> bool:
        prediction = attempt.predictions.get(instance_id)
        if prediction is None:
            return not isinstance(self.bench.policy, Playing)
        graded = not prediction.model_patch or instance_id in attempt.results
        return graded and (self.trees is None or self.trees.is_settled((attempt.number, instance_id)))

    def run(self) -> dict[Key, str]:
        """Do it. Why what could not be done could not, by attempt and instance."""
        to_play = any(task.instance_id not in attempt.predictions for attempt, task in self._left)
        with ExitStack() as stack:
            stack.enter_context(self.progress)
            player = None
            if isinstance(self.bench.policy, Playing) and to_play:
                try:
                    player = stack.enter_context(self.bench.policy.open_player(self.bench._stop))
                except StoppedError:
                    return {}
            return self._run_all(player)

    def _run_all(self, player: Player | None) -> dict[Key, str]:
        broken: dict[Key, str] = {}
        with ThreadPoolExecutor(self.bench.workers, thread_name_prefix="instance") as pool:
            running: dict[Future[Result | None], tuple[Attempt, RepositoryTask]] = {
                pool.submit(self._one, attempt, task, player): (attempt, task) for attempt, task in self._left
            }
            try:
                while running:
                    finished, _ = wait(running, timeout=TICK_S, return_when=FIRST_COMPLETED)
                    for future in finished:
                        self._take(*running.pop(future), future, broken)
                    if player is not None:
                        player.check()
                        if self.bench._stop.is_set():
                            player.stop()
                    self.progress.tick()
            except BaseException:
                self.bench._stop.set()
                if player is not None:
                    player.stop()
                raise
        return broken

    def _take(
        self,
        attempt: Attempt,
        task: RepositoryTask,
        future: "Future[Result | None]",
        broken: dict[Key, str],
    ) -> None:
        """Say what came of one, if anything did."""
        key = attempt.number, task.instance_id
        named = task.instance_id + (f", attempt {attempt.number}" if len(self.attempts) > 1 else "")
        try:
            result = future.result()
        except StoppedError:
            return
        except (SandboxError, TaskError, BrokenEpisodeError) as error:
            broken[key] = shortened(error, 500)
            self.progress.broke(f"{named}: broken: {broken[key]}")
            return
        if self.bench._stop.is_set() and not self._is_done(attempt, task.instance_id):
            return
        facts = None if self.trees is None else self.trees.facts(key)
        seconds = "" if result is None else f", {result.seconds:.1f} s"
        came = what_came(attempt, task.instance_id, facts)
        self.progress.done(f"{named}: {came}{seconds}", resolved=result is not None and result.resolved)

    def _one(self, attempt: Attempt, task: RepositoryTask, player: Player | None) -> Result | None:
        """Play, grade and settle, as far as that is not done. Its grade, None if it is not graded."""
        key = attempt.number, task.instance_id
        prediction = attempt.predictions.get(task.instance_id)
        if prediction is None:
            assert player is not None, "there is something to play"
            prediction = self._play(attempt, task, player)
        result = attempt.results.get(task.instance_id)
        if prediction.model_patch and result is None:
            result = self._grade(attempt, task, prediction)
            if result is None:
                return None
            attempt.results[task.instance_id] = result
        if self.trees is not None:
            facts = self.trees.facts(key)
            came = what_came(attempt, task.instance_id, facts)
            self.trees.settle(key, float(result is not None and result.resolved), came)
        return result

    def _play(self, attempt: Attempt, task: RepositoryTask, player: Player) -> Prediction:
        """The prediction, kept. Raises BrokenEpisodeError, StoppedError."""
        assert self.trees is not None, "whoever plays keeps trees"
        exam_of(task)  # what can't be graded is not played
        played = self._tried(lambda: player.play(task.instance_id, attempt.number))
        self.trees.keep(played.tree, played.facts)
        prediction = Prediction(
            instance_id=task.instance_id,
            model_name_or_path=self.bench.model,
            model_patch=played.patch,
        )
        attempt.submit(prediction)
        return prediction

    def _tried(self, play: Callable[[], Played]) -> Played:
        for _ in range(TRIES - 1):
            with suppress(BrokenEpisodeError):
                return play()
        return play()

    def _grade(self, attempt: Attempt, task: RepositoryTask, prediction: Prediction) -> Result | None:
        """None if the run is being stopped."""
        exam = exam_of(task)
        for number in range(1, TRIES + 1):
            if self.bench._stop.is_set():
                return None
            try:
                with self._workspace(task) as sandbox:
                    seconds = self.bench.wall_seconds
                    found = grade(sandbox, exam, prediction.model_patch, wall_seconds=seconds)
                return attempt.files.write(prediction, found)
            except SandboxError:
                if number == TRIES:
                    raise
        return None

    @contextmanager
    def _workspace(self, task: RepositoryTask) -> Iterator[Sandbox]:
        sandbox = self.bench.open_workspace(task, GRADING)
        try:
            yield sandbox
        finally:
            sandbox.close()


def predictions_of(
    policy: str, tasks: Sequence[RepositoryTask], *, complain: Callable[[str], object]
) -> dict[str, Prediction]:
    """By instance id, the patches of a policy that brings them along.

    Args:
        policy: `gold`, the patches that the data set itself holds to be right; `empty`, none at all, which
            are not run; `replay:FILE`, those of a file.
        tasks: of the data set.
        complain: told of what is wrong in the file, a line each.

    Raises:
        ConfigError: they are not of one model.
        DataError: the file can't be read as predictions.
    """
    if policy in ("gold", "empty"):
        found = {
            task.instance_id: Prediction(
                instance_id=task.instance_id,
                model_name_or_path=policy,
                model_patch=task.patch if policy == "gold" else "",
            )
            for task in tasks
        }
    else:
        source = policy.partition(":")[2]
        read = read_predictions(Path(source), {task.instance_id for task in tasks})
        for message in read.messages:
            complain(f"{source}: {message}")
        found = dict(read.by_id)
    models = {prediction.model_name_or_path for prediction in found.values()}
    if len(models) != 1:
        msg = f"expected predictions of one model, got those of {sorted(models) or 'none'}"
        raise ConfigError(msg)
    return found
