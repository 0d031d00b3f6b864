"""Held-out success of the policy that a policy server serves, without a learner: `trieline eval`."""

import asyncio
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trieline.actors.actor import earlier_policy
from trieline.actors.chat import ChatRenderer
from trieline.actors.env_session import EnvHost
from trieline.actors.episode_slots import EpisodeSlots
from trieline.actors.gymnasium_player import play_environments
from trieline.actors.player import Player, Stage
from trieline.config import Config, ConfigError
from trieline.launcher.task_lists import list_tasks, lists_by_env
from trieline.learner.intake.evaluation import Evaluation, evaluation_assignments
from trieline.learner.intake.evaluation_report import EvalReport
from trieline.wire.generate_link import PolicyClient
from trieline.wire.messages import Assignment


def evaluate(
    config: Config, model_folder: Path, *, progress: Callable[[int, int], None] | None = None
) -> EvalReport:
    """Play what the actors of a run would be asked to play, here. `progress` is told (finished, all) tasks.

    Raises:
        ConfigError: no task is to be played.
        EnvironmentSetupError: an environment is not registered, or its list of tasks is none.
        PeerTimeoutError: no policy server answers.
    """
    if not config.evaluation.episodes:
        msg = "evaluation.episodes: expected at least 1 to measure success by, got 0"
        raise ConfigError(msg)
    renderer = ChatRenderer(
        model_folder, system_prompt=config.actor.system_prompt, template_kwargs=config.model.template_kwargs
    )
    tasks = {env_id: lists.test for env_id, lists in lists_by_env(list_tasks(config)).items()}
    return asyncio.run(_evaluate(config, renderer, progress, tasks))


async def _evaluate(
    config: Config,
    renderer: ChatRenderer,
    progress: Callable[[int, int], None] | None,
    tasks: Mapping[str, Sequence[str]],
) -> EvalReport:
    actor = config.actor
    client = PolicyClient(config.links)
    earlier = earlier_policy(actor, config.links)
    host = EnvHost(
        threads=actor.env_threads, max_stuck=actor.max_stuck_threads, call_timeout_s=actor.turn_timeout_s
    )
    stage = Stage(
        config=actor,
        envs={env.id: env for env in config.envs},
        renderer=renderer,
        policy=client,
        earlier=earlier,
        host=host,
        slots=EpisodeSlots(actor.episodes),
    )
    await client.start()
    if earlier is not None:
        await earlier.start()
    try:
        await client.status(timeout_s=config.learner.startup_timeout_s)
        return await play_evaluation(config, play_environments(stage), progress, tasks=tasks)
    finally:
        await host.close()
        await client.close()
        if earlier is not None:
            await earlier.close()


async def play_evaluation(
    config: Config,
    player: Player,
    progress: Callable[[int, int], None] | None = None,
    *,
    tasks: Mapping[str, Sequence[str]],
) -> EvalReport:
    """Have one player play all tasks; `tasks`: as in `evaluation_assignments`."""
    assignments = evaluation_assignments(config.envs, config.evaluation, itertools.count().__next__, tasks)
    evaluation = Evaluation(assignments, config.evaluation)

    async def play(assignment: Assignment) -> None:
        evaluation.take(assignment.assignment_id, await player.play(assignment))
        if progress is not None:
            progress(evaluation.num_played, evaluation.num_tasks)

    async with asyncio.TaskGroup() as running:
        for assignment in assignments:
            running.create_task(play(assignment))
    return evaluation.report()


def read_reports(folder: Path) -> list[tuple[int, dict[str, Any]]]:
    """(step, report) of every evaluation in `folder`, in the order of the steps."""
    found = [
        (int(path.stem.removeprefix("step_")), json.loads(path.read_text(encoding="utf-8")))
        for path in folder.glob("step_*.json")
    ]
    return sorted(found, key=lambda item: item[0])
