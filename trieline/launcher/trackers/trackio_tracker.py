"""Trackio: a local database (TRACKIO_DIR), or a server or Space of Hugging Face that its variables name."""

from collections.abc import Mapping

import trackio

from trieline.launcher.trackers.tracker import TrackedRun


class TrackioTracker:
    """One run there."""

    def __init__(self, run: "trackio.Run") -> None:
        self._run = run

    def send(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def open_run(run: TrackedRun) -> TrackioTracker:
    """Begin it, or go on with it: it is known by its name there."""
    return TrackioTracker(
        trackio.init(
            project=run.project,
            name=f"{run.name}-{run.id[:4]}",
            resume="allow",
            config={**run.facts},
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
    )
