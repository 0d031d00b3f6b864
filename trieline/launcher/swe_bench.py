"""`trieline bench swe`: predictions graded on the tasks of a data set, several at once, and their report.

What is done is kept an instance at a time, so a run that was killed goes on with `--resume` and grades
nothing twice. A sandbox that fails is tried again, and then told apart from a wrong patch.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from trieline.common.file_lock import file_lock
from trieline.common.folders import write_whole
from trieline.common.signals import on_stop_signal
from trieline.common.text import shortened
from trieline.config import ConfigError
from trieline.envs.errors import SandboxError, TaskError
from trieline.envs.sandbox import Sandbox, SandboxLimits
from trieline.envs.swe.grading import exam_of, grade
from trieline.envs.swe.predictions import Prediction, read_predictions, write_prediction
from trieline.envs.swe.repository_task import RepositoryTask
from trieline.envs.swe.results import Result, ResultFiles, run_report, summary
from trieline.envs.swe.workspaces import GRADING

ATTEMPTS = 3
"""Of an instance whose sandbox fails."""

OpenWorkspace = Callable[[RepositoryTask, SandboxLimits], Sandbox]


@dataclass(frozen=True, kw_only=True)
class SweBench:
    """One run. Its files are those of `results`."""

    tasks: Sequence[RepositoryTask]
    predictions: Mapping[str, Prediction]
    """By instance id, of one model."""
    folder: Path
    run_id: str
    open_workspace: OpenWorkspace
    """A clean one of a task."""
    workers: int = 1
    wall_seconds: float = GRADING.wall_seconds
    """For the tests of one instance."""
    say: Callable[[str], None] = print
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self, *, resume: bool) -> bool:
        """Grade what is not graded yet and write the report. False if it was stopped.

        Raises:
            ConfigError: the predictions are not of one model, or there are results of such a run, and it is
                not to be resumed.
            DataError: the model's name can't be that of a folder.
            LockError: another process works on them.
            OSError: they can't be written; names the file.
        """
        models = {prediction.model_name_or_path for prediction in self.predictions.values()}
        if len(models) != 1:
            msg = f"expected predictions of one model, got those of {sorted(models) or 'none'}"
            raise ConfigError(msg)
        files = ResultFiles(self.folder, run_id=self.run_id, model=models.pop())
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self.folder / ".lock", what="to grade in its folder", timeout_s=0.0):
            done = self._done(files)
            if done and not resume:
                msg = (
                    f"expected no results of run {self.run_id!r} in {self.folder}, found those of "
                    f"{len(done)} instances; --resume goes on with them"
                )
                raise ConfigError(msg)
            self._keep_predictions()
            with on_stop_signal(lambda name: self._stop.set()):
                broken = self._grade_all(files, done)
            if self._stop.is_set():
                return False
            report = run_report([t.instance_id for t in self.tasks], self.predictions, done)
            write_whole(files.report_path, _json(report))
            text = summary(report, done, broken)
            write_whole(self.folder / "summary.md", text.encode())
        self.say(text)
        self.say(f"report: {files.report_path}")
        return True

    def _keep_predictions(self) -> None:
        """In the official form; those that are there already are not written again."""
        path = self.folder / "predictions.jsonl"
        kept = read_predictions(path, self.predictions).by_id if path.exists() else {}
        for instance_id, prediction in self.predictions.items():
            if kept.get(instance_id) != prediction:
                write_prediction(path, prediction)

    def _done(self, files: ResultFiles) -> dict[str, Result]:
        found = {i: files.read(prediction) for i, prediction in self.predictions.items()}
        return {i: result for i, result in found.items() if result is not None}

    def _grade_all(self, files: ResultFiles, done: dict[str, Result]) -> dict[str, str]:
        """Add to `done`; why the others could not be graded, by instance id."""
        waiting = [
            (task, prediction)
            for task in self.tasks
            if (prediction := self.predictions.get(task.instance_id)) is not None
            and prediction.model_patch
            and task.instance_id not in done
        ]
        broken: dict[str, str] = {}
        with ThreadPoolExecutor(self.workers, thread_name_prefix="grader") as pool:
            running: dict[Future[Result | None], str] = {
                pool.submit(self._grade_one, task, prediction, files): task.instance_id
                for task, prediction in waiting
            }
            for number, future in enumerate(as_completed(running), 1):
                instance_id = running[future]
                try:
                    result = future.result()
                except (SandboxError, TaskError) as error:
                    broken[instance_id] = shortened(error, 500)
                    self.say(f"[{number}/{len(waiting)}] {instance_id}: broken: {broken[instance_id]}")
                    continue
                if result is not None:
                    done[instance_id] = result
                    said = "resolved" if result.resolved else result.cause or "tests fail"
                    self.say(f"[{number}/{len(waiting)}] {instance_id}: {said}, {result.seconds:.1f} s")
        return broken

    def _grade_one(self, task: RepositoryTask, prediction: Prediction, files: ResultFiles) -> Result | None:
        """None if the run is being stopped."""
        exam = exam_of(task)
        for attempt in range(1, ATTEMPTS + 1):
            if self._stop.is_set():
                return None
            try:
                with self._workspace(task) as sandbox:
                    found = grade(sandbox, exam, prediction.model_patch, wall_seconds=self.wall_seconds)
                return files.write(prediction, found)
            except SandboxError:
                if attempt == ATTEMPTS:
                    raise
        return None

    @contextmanager
    def _workspace(self, task: RepositoryTask) -> Iterator[Sandbox]:
        sandbox = self.open_workspace(task, GRADING)
        try:
            yield sandbox
        finally:
            sandbox.close()


def _json(value: object) -> bytes:
    return json.dumps(value, indent=4).encode() + b"\n"


def predictions_of(
    policy: str, tasks: Sequence[RepositoryTask], *, complain: Callable[[str], object]
) -> dict[str, Prediction]:
    """By instance id, the patches of a policy.

    Args:
        policy: `gold`, the patches that the data set itself holds to be right; `empty`, none at all, which
            are not run; `replay:FILE`, those of a file.
        tasks: of the data set.
        complain: told of what is wrong in the file, a line each.

    Raises:
        ConfigError: there is no such policy.
        DataError: the file can't be read as predictions.
    """
    if policy in ("gold", "empty"):
        return {
            task.instance_id: Prediction(
                instance_id=task.instance_id,
                model_name_or_path=policy,
                model_patch=task.patch if policy == "gold" else "",
            )
            for task in tasks
        }
    kind, _, source = policy.partition(":")
    if kind != "replay" or not source:
        msg = f"--policy: expected gold, empty or replay:FILE, got {policy!r}"
        raise ConfigError(msg)
    found = read_predictions(Path(source), {task.instance_id for task in tasks})
    for message in found.messages:
        complain(f"{source}: {message}")
    return dict(found.by_id)
