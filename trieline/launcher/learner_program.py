"""The learner as a program, with what plays episodes for it: the learner itself knows no environment."""

from collections import Counter
from collections.abc import Collection
from itertools import count

from trieline.actors.chat import ChatRenderer
from trieline.actors.demonstrations import demonstration_tree
from trieline.config import Config
from trieline.launcher.evaluation import Evaluator
from trieline.launcher.run_folder import RunFolder
from trieline.learner.model_folder.model_source import prepare_model
from trieline.learner.process import run_learner
from trieline.learner.training import Hooks
from trieline.learner.warm_start import Demonstrations
from trieline.wire.tree import TrajectoryTree

# Above every seed that the curriculum hands out, so that no demonstration shows a task of the training.
DEMONSTRATION_SEEDS = 2**30


def run_learner_program(config: Config, folder: RunFolder, *, resume: bool) -> int:
    """Run the learner to its end. Returns the exit status."""
    live = config.learner.replay is None
    return run_learner(
        config.learner,
        model=config.model,
        envs=config.envs,
        links=config.links,
        run_dir=folder.path,
        seed=config.run.seed,
        resume=resume,
        hooks=_hooks(config, folder) if live else Hooks(),
    )


def _hooks(config: Config, folder: RunFolder) -> Hooks:
    model_folder = prepare_model(config.model.path)
    evaluator = Evaluator(config, model_folder)
    renderer = ChatRenderer(
        model_folder, system_prompt=config.actor.system_prompt, template_kwargs=config.model.template_kwargs
    )
    return Hooks(
        demonstrations=_demonstrations(config, renderer),
        success=evaluator.success,
        held_out=lambda step, stop: evaluator.record(step, folder.evaluations, stop),
        held_out_every=config.evaluation.every,
    )


def _demonstrations(config: Config, renderer: ChatRenderer) -> Demonstrations:
    """The environments in turn, and each one's levels in turn."""
    numbers = count()
    shown = Counter[str]()

    def demonstration(wanted: Collection[str]) -> TrajectoryTree:
        number = next(numbers)
        envs = [env for env in config.envs if not wanted or env.id in wanted]
        env = envs[number % len(envs)]
        level = env.levels[shown[env.id] % len(env.levels)] if env.levels else None
        shown[env.id] += 1
        seed = DEMONSTRATION_SEEDS + config.run.seed * 1_000_003 + number
        timeout_s = config.actor.episode_timeout_s
        return demonstration_tree(env, renderer, seed % 2**31, level, timeout_s=timeout_s)

    return lambda trees, wanted: [demonstration(wanted) for _ in range(trees)]
