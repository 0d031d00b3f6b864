"""Weights & Biases. Its own variables (WANDB_MODE, WANDB_ENTITY, WANDB_API_KEY) say where to and as whom."""

from collections.abc import Mapping

import wandb

from trieline.launcher.trackers.tracker import TrackedRun

# Records of a warm start all stand at step 0 and count steps of their own.
STEP, WARM_START_STEP = "step", "warm_start/step"


class WandbTracker:
    """One run there.

    `step` is a figure that the others are drawn over: its own count only grows, and ours goes back when steps
    are made again after a crash.
    """

    def __init__(self, run: "wandb.Run") -> None:
        self._run = run
        run.define_metric("*", step_metric=STEP)
        run.define_metric("warm_start/*", step_metric=WARM_START_STEP)

    def send(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({STEP: step, **values})

    def close(self) -> None:
        self._run.finish()


def open_run(run: TrackedRun) -> WandbTracker:
    """Begin it, or go on with it by its id."""
    # Neither code nor the text of logs leaves the machine.
    settings = wandb.Settings(
        console="off", disable_code=True, disable_git=True, save_code=False, silent=True
    )
    try:
        begun = wandb.init(
            project=run.project,
            id=run.id,
            name=run.name,
            resume="allow",
            dir=run.folder,
            config={**run.facts},
            settings=settings,
        )
    except BaseException:
        # Its service process goes on with a run that could not be begun, and would refuse it from then on.
        wandb.teardown()
        raise
    return WandbTracker(begun)
