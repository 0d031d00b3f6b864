"""Options that several verbs share."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trieline.config import Config
    from trieline.envs.swe.repository_task import RepositoryTask


def add_config_options(parser: argparse.ArgumentParser, *, default: str = "smollm2") -> None:
    """The configuration: recipes and files in order, then settings."""
    parser.add_argument(
        "--config",
        action="append",
        metavar="RECIPE|FILE",
        help=f"a recipe or a TOML file; may be given several times, the later wins (default: {default})",
    )
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="A.B=VALUE",
        help="change one setting, e.g. --set learner.steps=20 or --set envs.0.curriculum.weight=2",
    )
    parser.set_defaults(default_config=default)


def read_config(options: argparse.Namespace) -> "Config":
    """The configuration that these options describe."""
    from trieline.config import load_config

    return load_config(options.config or [options.default_config], options.settings)


def chosen_tasks(data: "Path", split: str | None, ids: "Sequence[str] | None") -> "list[RepositoryTask]":
    """The tasks of a data set, or those of them with these ids. ConfigError for an id that it lacks."""
    from trieline.config import ConfigError
    from trieline.envs.swe.rows import read_rows

    tasks = read_rows(data, split)
    if not ids:
        return tasks
    if unknown := set(ids) - {task.instance_id for task in tasks}:
        msg = f"--ids: expected ids of {data}, got {sorted(unknown)[:8]}"
        raise ConfigError(msg)
    return [task for task in tasks if task.instance_id in set(ids)]
