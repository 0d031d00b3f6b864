"""The `trieline` command: one binary with verbs. Parses first; imports what is heavy when a verb runs."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from trieline import __version__
from trieline.command_line import (
    benchmarks,
    checks,
    environments,
    fine_tuning,
    images,
    inspection,
    keys,
    processes,
    runs,
    tasks,
    tracking,
    training,
    viewing,
)
from trieline.common.errors import in_one_line
from trieline.common.text import LINES, visible
from trieline.launcher.machine import missing_extra

VERBS = (
    training,
    fine_tuning,
    processes,
    environments,
    images,
    inspection,
    runs,
    viewing,
    tracking,
    benchmarks,
    tasks,
    keys,
    checks,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status. An error that a user can cause is one line, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        # A locale that lacks a character, or half a character in a path, ends no run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = build_parser().parse_args(arguments)
    if (here := str(Path.cwd())) not in sys.path:
        # Last, so that nothing here passes for an installed module: `module:namespace/Name-v0` may name one.
        sys.path.append(here)
    try:
        status: int = options.run(options)
        # While it can still be told whether somebody reads it.
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read this has seen enough (`| head`). What is left in the buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        message = missing_extra(error) or in_one_line(error)
        if message is None:
            raise
        sys.stderr.write(f"trieline {options.verb}: {visible(message, keep=LINES)}\n")
        return 2
    return status


def build_parser() -> argparse.ArgumentParser:
    """All verbs, each with its own options; importing this loads nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="trieline",
        description="Reinforcement learning of language-model agents on tree-shaped trajectories.",
    )
    parser.add_argument("--version", action="version", version=f"trieline {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for module in VERBS:
        module.add_verbs(verbs)
    return parser
