"""The environments' lists of tasks: asked for once, at the start of a run, and kept in its folder.

The learner hands tasks out by these lists and imports no environment. It may run on a machine that can't make
one: then its run folder is given the `tasks.json` that `trieline envs tasks` prints where it can.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trieline.actors.listed_tasks import listed_tasks
from trieline.common.errors import about_file
from trieline.common.folders import write_whole
from trieline.config import Config, ConfigError
from trieline.launcher.environment_checks import look_apart
from trieline.wire.config import EnvConfig
from trieline.wire.task_lists import Listing, TaskLists


def list_tasks(config: Config, known: Sequence[Listing] = ()) -> list[Listing]:
    """Ask every environment whose list counts, except where the answer is `known`.

    Raises:
        EnvironmentSetupError: an environment can't be made or hangs, or its list is none.
    """
    answers = {msgspec.json.encode((listing.env_id, listing.kwargs)): listing for listing in known}
    asked = [env for env in config.envs if env.asked_for_tasks]
    return [answers.get(msgspec.json.encode((env.id, env.kwargs))) or _ask(env, config) for env in asked]


def lists_by_env(listings: Sequence[Listing]) -> dict[str, TaskLists]:
    """Of the environments that have a list."""
    return {listing.env_id: listing.lists for listing in listings if listing.lists is not None}


def encoded(listings: Sequence[Listing]) -> bytes:
    """As they stand in a `tasks.json`."""
    return msgspec.json.encode(listings)


def write_listings(path: Path, listings: Sequence[Listing]) -> None:
    """Replace what is there."""
    with about_file(path):
        write_whole(path, encoded(listings))


def read_listings(path: Path) -> list[Listing]:
    """Those of a run folder; none if it has none yet.

    Raises:
        ConfigError: the file holds something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Listing]) if path.exists() else []
    except msgspec.MsgspecError as error:
        msg = f"{path}: expected lists of tasks, as `trieline envs tasks` prints them: {error}"
        raise ConfigError(msg) from error


def _ask(env: EnvConfig, config: Config) -> Listing:
    """In a process of its own: what an environment changes for its whole process, it changes there."""
    with tempfile.TemporaryDirectory(prefix="trieline-tasks-") as scratch:
        path = Path(scratch) / "lists.json"

        def look(timeout_s: float) -> None:
            path.write_bytes(msgspec.json.encode(listed_tasks(env, timeout_s)))

        look_apart(env, config, look)
        lists = msgspec.json.decode(path.read_bytes(), type=TaskLists | None)
    return Listing(env_id=env.id, kwargs=env.kwargs, lists=lists)
