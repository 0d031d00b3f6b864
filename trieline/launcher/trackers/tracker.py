"""What a tracker is: somewhere to send the figures of a run to, and how each kind is opened."""

import importlib
import importlib.util
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trieline.common.credentials import without_secrets
from trieline.common.file_lock import file_lock
from trieline.common.folders import write_whole
from trieline.config import Config, ConfigError, config_to_dict
from trieline.launcher.machine import describe_machine
from trieline.launcher.run_folder import RunFolder

MODULES = {"wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}
"""By tracker: what has to be installed. The extra has the tracker's name."""
FOLDER = "trackers"
"""In a run folder."""
NAMING_S = 10.0


class Tracker(Protocol):
    """One run in one tracker. Any call may fail with whatever its library raises, or take for ever."""

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """Add the figures of one record. Several may be of one step."""

    def close(self) -> None:
        """Wait until all is there, and say that the run has ended for now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackedRun:
    """What a tracker is told of a run before its figures."""

    id: str
    """The same whenever the run goes on, wherever its folder lies by then."""
    name: str
    project: str
    folder: Path
    """For files of the tracker's own."""
    facts: Mapping[str, Any]
    """`config` (nested, without what is secret) and `machine`, with the versions of packages."""


def expect_installed(names: Sequence[str]) -> None:
    """Raise ConfigError for a tracker whose package is not there."""
    for name in names:
        if importlib.util.find_spec(MODULES[name]) is None:
            msg = f"run.trackers: {name} is not installed: pip install 'trieline[{name}]'"
            raise ConfigError(msg)


def open_tracker(name: str, run: TrackedRun) -> Tracker:
    """Begin the run there, or go on with it. Whatever its library raises, and ImportError."""
    module = importlib.import_module(f"trieline.launcher.trackers.{name}_tracker")
    tracker: Tracker = module.open_run(run)
    return tracker


def tracked_run(folder: RunFolder, config: Config) -> TrackedRun:
    """What is known of a run. Makes its id at the first call."""
    own = folder.path / FOLDER
    own.mkdir(exist_ok=True)
    identity = own / "run_id"
    # The trackers of a run begin at the same moment.
    with file_lock(own / ".run_id.lock", what="to name the run", timeout_s=NAMING_S):
        if not identity.exists():
            write_whole(identity, secrets.token_hex(8).encode())
    return TrackedRun(
        id=identity.read_text(encoding="ascii").strip(),
        name=folder.path.name,
        project=config.run.project,
        folder=own,
        facts={"config": without_secrets(config_to_dict(config)), "machine": describe_machine()},
    )


def flattened(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested facts as text by dotted names, as settings are written; lists count their items from 0."""
    if isinstance(value, Mapping):
        items = [(str(name), inner) for name, inner in value.items()]
    elif isinstance(value, list | tuple):
        items = [(str(number), inner) for number, inner in enumerate(value)]
    else:
        return {prefix: str(value)}
    flat: dict[str, str] = {}
    for name, inner in items:
        flat |= flattened(inner, f"{prefix}.{name}" if prefix else name)
    return flat
