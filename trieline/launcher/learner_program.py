"""The learner as a program."""

from trieline.config import Config
from trieline.launcher.run_folder import RunFolder
from trieline.learner.process import LearnerRun, run_learner


def run_learner_program(config: Config, folder: RunFolder, *, resume: bool) -> int:
    """Run the learner to its end. Returns the exit status."""
    return run_learner(
        LearnerRun(
            config=config.learner,
            model=config.model,
            envs=config.envs,
            links=config.links,
            run_dir=folder.path,
            seed=config.run.seed,
            resume=resume,
            evaluation=config.evaluation,
            max_forks=config.actor.branches,
        )
    )
