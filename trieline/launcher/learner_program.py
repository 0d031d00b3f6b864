"""The learner as a program."""

from trieline.actors.errors import EnvironmentSetupError
from trieline.config import Config
from trieline.launcher.run_folder import RunFolder
from trieline.launcher.task_lists import list_tasks, lists_by_env, read_listings, write_listings
from trieline.learner.process import LearnerRun, run_learner
from trieline.wire.task_lists import TaskLists


def run_learner_program(config: Config, folder: RunFolder, *, resume: bool) -> int:
    """Run the learner to its end. Returns the exit status.

    Raises:
        EnvironmentSetupError, ConfigError: it is not known what tasks an environment has.
    """
    tasks = {} if config.learner.replay is not None else _tasks(config, folder)
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
            tasks=tasks,
        )
    )


def _tasks(config: Config, folder: RunFolder) -> dict[str, TaskLists]:
    """As the launcher wrote them; of environments that it did not ask, asked here."""
    known = read_listings(folder.tasks)
    try:
        listings = list_tasks(config, known)
    except EnvironmentSetupError as error:
        msg = (
            f"{error}. A learner where it can't be made reads its list of tasks in {folder.tasks}: "
            "`trieline envs tasks` prints that file where it can"
        )
        raise EnvironmentSetupError(msg) from error
    if listings != known:
        write_listings(folder.tasks, listings)
    return lists_by_env(listings)
