"""Options that several verbs share."""

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trieline.config import Config


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


def log_to(path: Path | None, *, level: int = logging.INFO) -> None:
    """Configure logging, which only entry points do: to a file, or to stderr."""
    handler: logging.Handler = (
        logging.StreamHandler(sys.stderr) if path is None else logging.FileHandler(path)
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in ("httpx", "urllib3", "filelock", "matplotlib"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
