"""Held-out evaluation through a running policy server: `trieline eval`, and the learner's own."""

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from trieline.actors.chat import ChatRenderer
from trieline.actors.evaluate import EvalReport, evaluate
from trieline.config import Config
from trieline.learner.errors import StopRequested
from trieline.wire.generate_link import PolicyClient

log = logging.getLogger(__name__)

# A measurement that ends a warm start is made often, so it is small: its standard error at 0.5 is 0.06.
WARM_START_EPISODES = 64
STOP_POLL_S = 0.25


class Evaluator:
    """Plays held-out tasks of a configuration's environments, always the same ones for the same seed."""

    def __init__(self, config: Config, model_folder: Path) -> None:
        self._config = config
        self._renderer = ChatRenderer(
            model_folder,
            system_prompt=config.actor.system_prompt,
            template_kwargs=config.model.template_kwargs,
        )

    def run(
        self,
        *,
        episodes: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        stop: threading.Event | None = None,
    ) -> EvalReport:
        """One evaluation; `episodes` per environment, as configured if None.

        Raises:
            StopRequested: `stop` was set before it was done.
        """
        running = self._run(episodes or self._config.evaluation.episodes, progress)
        return asyncio.run(_run_until(stop, running))

    def success(self, stop: threading.Event) -> dict[str, float]:
        """Sampled success per environment, from few episodes: what a warm start ends by."""
        report = self.run(episodes=WARM_START_EPISODES, stop=stop)
        return {env.env_id: env.mean_return or 0.0 for env in report.envs}

    def record(self, step: int, folder: Path, stop: threading.Event) -> dict[str, float]:
        """Evaluate, keep the whole report as `folder/step_N.json`, and return the figures as metrics."""
        report = self.run(stop=stop)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"step_{step}.json").write_text(json.dumps(report.to_dict(), indent=1))
        return eval_metrics(report)

    async def _run(self, episodes: int, progress: Callable[[int, int], None] | None) -> EvalReport:
        settings = self._config.evaluation
        client = PolicyClient(self._config.links)
        await client.start()
        try:
            await client.status(timeout_s=self._config.learner.startup_timeout_s)
            return await evaluate(
                client,
                self._renderer,
                self._config.envs,
                episodes=episodes,
                attempts=settings.attempts,
                temperature=settings.temperature,
                seed=settings.seed,
                transcripts=settings.transcripts,
                concurrency=settings.concurrency,
                config=self._config.actor,
                progress=progress,
            )
        finally:
            await client.close()


async def _run_until(stop: threading.Event | None, running: Coroutine[Any, Any, EvalReport]) -> EvalReport:
    task = asyncio.create_task(running)
    while not task.done():
        await asyncio.wait({task}, timeout=STOP_POLL_S)
        if stop is not None and stop.is_set() and not task.done():
            task.cancel()
            await asyncio.wait({task})
            raise StopRequested
    return task.result()


def eval_metrics(report: EvalReport) -> dict[str, float]:
    """The figures of a report by the names that metrics have."""
    metrics: dict[str, float] = {}
    for env in report.envs:
        if env.mean_return is not None:
            metrics[f"eval/{env.env_id}/avg@k"] = env.mean_return
        if env.pass_at_k is not None:
            metrics[f"eval/{env.env_id}/pass@k"] = env.pass_at_k
        for cause, count in env.broken.items():
            metrics[f"eval/{env.env_id}/errored/{cause}"] = float(count)
    means = [env.mean_return for env in report.envs if env.mean_return is not None]
    if means:
        metrics["eval/mean"] = sum(means) / len(means)
    return metrics


def read_reports(folder: Path) -> list[tuple[int, dict[str, Any]]]:
    """(step, report) of every evaluation in `folder`, in the order of the steps."""
    found = [
        (int(path.stem.removeprefix("step_")), json.loads(path.read_text()))
        for path in folder.glob("step_*.json")
    ]
    return sorted(found, key=lambda item: item[0])
