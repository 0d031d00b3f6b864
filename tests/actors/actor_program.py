"""`run_actor` as a program of its own: `python -m tests.actors.actor_program '<json>'`."""

import json
import sys
from pathlib import Path

import msgspec

from trieline.actors.config import ActorConfig
from trieline.actors.process import run_actor
from trieline.wire.config import EnvConfig, LinksConfig


def main(arguments: str) -> int:
    given = json.loads(arguments)
    return run_actor(
        msgspec.convert(given["config"], ActorConfig),
        model_folder=Path(given["model_folder"]),
        envs=msgspec.convert(given["envs"], list[EnvConfig]),
        links=msgspec.convert(given["links"], LinksConfig),
        log_file=Path(given["log_file"]),
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
