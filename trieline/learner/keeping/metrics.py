"""What a run says of itself: `metrics.jsonl`, a record a line, and the same figures for TensorBoard.

Every line is flushed, so that whoever follows the file sees a step as soon as it is done. After a resumption
the records of steps that are made again are dropped first.
"""

import contextlib
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trieline.common.folders import write_whole
from trieline.learner.errors import MetricsError

log = logging.getLogger(__name__)


class MetricsLog:
    """Writes the metrics of one run."""

    def __init__(self, run_dir: Path, *, step: int | None, warm_start_step: float = math.inf) -> None:
        """Go on after `step`. None: begin anew; what a start without a checkpoint has written goes.

        `warm_start_step`: of the warm start, whose records all stand at step 0, go on after this one.

        Raises:
            MetricsError: the files can't be written.
        """
        from torch.utils.tensorboard import SummaryWriter

        kept = -1 if step is None else step
        self._path, boards = run_dir / "metrics.jsonl", run_dir / "tensorboard"
        with _written_to(self._path):
            _drop_after(self._path, (kept, warm_start_step))
            self._file = self._path.open("a", encoding="utf-8")
        try:
            with _written_to(boards):
                self._tensorboard = SummaryWriter(str(boards), purge_step=kept + 1)
        except MetricsError:
            self._file.close()
            raise

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Add one record. Figures that are not finite are written as null, which JSON has.

        Raises:
            MetricsError: the disk is full, or does not take it otherwise.
        """
        record = {"step": step, "time": time.time(), **values}
        plain = {name: _finite(value) for name, value in record.items()}
        with _written_to(self._path):
            self._file.write(json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()
        with _written_to(self._path.parent / "tensorboard"):
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._tensorboard.add_scalar(name, value, step)
            self._tensorboard.flush()

    def close(self) -> None:
        """Idempotent. What a full disk did not take is lost, and was said when it was written."""
        for file in (self._file, self._tensorboard):
            with contextlib.suppress(OSError):
                file.close()


@contextlib.contextmanager
def _written_to(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        msg = f"can't write {path}: {error.strerror or error}"
        raise MetricsError(msg) from error


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _drop_after(path: Path, last: tuple[int, float]) -> None:
    """Keep the whole records up to a step and one of the warm start; a crash may have left half a line."""
    if not path.exists():
        return
    kept = []
    # Not splitlines, which also splits at characters that JSON may hold.
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        if not line:
            continue
        try:
            record = json.loads(line)
        except ValueError:
            log.warning("%s: dropped a line that is no JSON: %.80s", path, line)
            continue
        if isinstance(record, dict) and (record.get("step", 0), record.get("warm_start/step", 0)) <= last:
            kept.append(line)
    write_whole(path, "".join(line + "\n" for line in kept).encode())
