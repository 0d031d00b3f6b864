"""A run folder: where everything about one run stands, by name.

`config.toml`, `tasks.json`, `logs/<process>.log`, `metrics.jsonl`, `tensorboard/`, `checkpoints/step_N/`,
`journal/`, `eval/`, `report.md`.
"""

import contextlib
import itertools
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trieline.common.errors import about_file
from trieline.common.folders import can_be_written
from trieline.config import Config, ConfigError, load_config, write_config

_STEP = re.compile(r"step_(\d+)")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @classmethod
    def create(cls, config: Config) -> "RunFolder":
        """Make a new folder named after the run and the moment, and write the resolved configuration."""
        folder = cls.reserve(config)
        folder.write(config)
        return folder

    @classmethod
    def reserve(cls, config: Config) -> "RunFolder":
        """Make a new folder for a run whose configuration isn't resolved yet.

        Raises:
            ConfigError: none can be made there.
        """
        runs = Path(config.run.folder).absolute()
        base = f"{config.run.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        try:
            # Made, not looked for: another run may start in this very moment.
            for attempt in itertools.count(1):
                folder = cls(runs / (base if attempt == 1 else f"{base}-{attempt}"))
                with contextlib.suppress(FileExistsError):
                    folder.path.mkdir(parents=True)
                    break
            folder.logs.mkdir()
        except OSError as error:
            msg = f"run.folder: {runs} can't be written: {error.strerror}"
            raise ConfigError(msg) from error
        return cls(folder.path.resolve())

    @classmethod
    def expect_place(cls, config: Config) -> None:
        """Before anything else is done for the run, raise ConfigError if its folder can't be made."""
        if not can_be_written(runs := Path(config.run.folder)):
            msg = f"run.folder: {runs.absolute()} can't be written"
            raise ConfigError(msg)

    @classmethod
    def attach(cls, path: str, config: Config) -> "RunFolder":
        """The folder that a learner started by hand writes to; made if it is not there."""
        folder = cls(Path(path).resolve())
        folder.logs.mkdir(parents=True, exist_ok=True)
        if not folder.config.exists():
            folder.write(config)
        return folder

    @classmethod
    def open(cls, path: str) -> "RunFolder":
        """An existing run.

        Raises:
            ConfigError: there is no run at `path`.
        """
        folder = cls(Path(path).resolve())
        if not folder.config.is_file():
            msg = f"expected a run folder with a config.toml, got {path!r}, which has none"
            raise ConfigError(msg)
        folder.logs.mkdir(exist_ok=True)
        return folder

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def tasks(self) -> Path:
        """See `task_lists`."""
        return self.path / "tasks.json"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def journal(self) -> Path:
        return self.path / "journal"

    @property
    def evaluations(self) -> Path:
        return self.path / "eval"

    @property
    def report(self) -> Path:
        return self.path / "report.md"

    def log(self, process: str) -> Path:
        return self.logs / f"{process}.log"

    def newest_checkpoint(self) -> Path | None:
        """The one of the highest step; None: there is none."""
        found = [(int(m[1]), p) for p in self.path.glob("checkpoints/*") if (m := _STEP.fullmatch(p.name))]
        return max(found)[1] if found else None

    def write(self, config: Config) -> None:
        """Write the resolved configuration."""
        with about_file(self.config):
            write_config(config, self.config)

    def load_config(self) -> Config:
        return load_config([str(self.config)])

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole records of `metrics.jsonl`, in order."""
        return list(_whole_records(self.metrics.read_bytes())) if self.metrics.exists() else []


class MetricsTail:
    """Reads the records that are added to a `metrics.jsonl` from a moment on, as they are completed.

    A learner that goes on from a checkpoint replaces the file by a shorter one first, of records that have
    been read.
    """

    def __init__(self, path: Path, *, since: float | None = None) -> None:
        """`since`: seconds since the epoch. None: from now on."""
        self._path = path
        self._known = self._newest = time.time() if since is None else since
        self._inode = -1
        self._offset = 0

    def read(self) -> list[dict[str, Any]]:
        """The records completed since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            if inode != self._inode:
                self._inode, self._offset, self._known = inode, 0, self._newest
            file.seek(self._offset)
            data = file.read()
        self._offset += data.rfind(b"\n") + 1
        new = [record for record in _whole_records(data) if record["time"] > self._known]
        self._newest = max([self._newest, *(record["time"] for record in new)])
        return new


def _whole_records(data: bytes) -> Iterator[dict[str, Any]]:
    """The records of all finished lines, without the figures that were not finite (null there)."""
    # Not splitlines, which also splits at characters that JSON may hold.
    for line in data.split(b"\n")[:-1]:
        yield {name: value for name, value in json.loads(line).items() if value is not None}
