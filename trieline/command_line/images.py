"""`trieline images list | build | smoke | remove`: the images that sandboxes in containers start from."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trieline.envs.swe.repository_task import RepositoryTask
    from trieline.envs.swe.task_images import Done

OFFLINE = "fetch nothing: build on an image that is here"
TASK_BASE = "swe-base"
"""What the images of tasks are built on."""


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb of this module to the command."""
    images = verbs.add_parser("images", help="list, build, try and remove the images of sandboxes")
    actions = images.add_subparsers(dest="action", required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="the images there are, and which of them are built here")
    listing.set_defaults(run=_list)

    build = actions.add_parser("build", help="build images and try them, or build those of tasks")
    build.add_argument("names", metavar="NAME", nargs="*", help="as in the list (default: all)")
    build.add_argument(
        "--base", metavar="IMAGE", help="the image to build on, a Debian-like one with python3"
    )
    build.add_argument("--offline", action="store_true", help=OFFLINE)
    build.add_argument("--checkouts", type=Path, help="with --tasks: a folder with one of each instance")
    _add_task_options(build)
    build.set_defaults(run=_build)

    smoke = actions.add_parser("smoke", help="try whether images have what a sandbox needs")
    smoke.add_argument("names", metavar="NAME", nargs="*", help="as in the list (default: all)")
    smoke.set_defaults(run=_smoke)

    remove = actions.add_parser("remove", help="remove the images of tasks that were built here")
    _add_task_options(remove)
    remove.add_argument("--all", action="store_true", help="instead of --tasks: of all tasks")
    remove.set_defaults(run=_remove)


def _add_task_options(action: argparse.ArgumentParser) -> None:
    action.add_argument("--tasks", type=Path, metavar="ROWS", help="of these: a file, or a data set's folder")
    action.add_argument("--split", help="of a folder with several")
    action.add_argument("--ids", nargs="+", help="only these instances")
    action.add_argument("--workers", type=int, default=2, help="images at once (default: %(default)s)")


def _list(_options: argparse.Namespace) -> int:
    from trieline.envs.sandbox import images
    from trieline.envs.sandbox.docker import engine

    for name in images.names():
        image = images.tag(name)
        print(f"{image:<24}  {'built' if engine().has_image(image) else 'not built'}")
    for image in images.made():
        print(f"{image:<24}  built of a checkout")
    return 0


def _build(options: argparse.Namespace) -> int:
    from trieline.config import ConfigError
    from trieline.envs.sandbox import images

    if options.tasks is not None:
        if options.names or options.checkouts is None:
            msg = "--tasks: expected --checkouts FOLDER beside it, and no NAME"
            raise ConfigError(msg)
        return _build_of_tasks(options)
    if options.checkouts is not None or options.ids or options.split:
        msg = "--checkouts, --ids, --split: expected --tasks ROWS beside them"
        raise ConfigError(msg)
    for name in options.names or images.names():
        base = images.build(name, base=options.base, offline=options.offline)
        print(f"built {images.tag(name)} on {base}")
    return _smoke(options)


def _build_of_tasks(options: argparse.Namespace) -> int:
    from trieline.envs.sandbox import images
    from trieline.envs.sandbox.docker import engine
    from trieline.envs.swe.task_images import build_images

    tasks, base = _tasks(options), images.tag(TASK_BASE)
    if not engine().has_image(base):
        print(f"built {base} on {images.build(TASK_BASE, base=options.base, offline=options.offline)}")
    done = build_images(tasks, options.checkouts, base=base, workers=options.workers)
    return _say("built", "unchanged", done, len(tasks))


def _remove(options: argparse.Namespace) -> int:
    from trieline.config import ConfigError
    from trieline.envs.sandbox import images
    from trieline.envs.swe.task_images import remove_images

    if options.all == (options.tasks is not None) or (options.all and (options.ids or options.split)):
        msg = "expected --tasks ROWS, or --all alone"
        raise ConfigError(msg)
    if options.all:
        names = images.made()
        for name in names:
            images.remove_made(name)
            print(f"removed {name}")
        return 0
    tasks = _tasks(options)
    return _say("removed", "not there", remove_images(tasks, workers=options.workers), len(tasks))


def _tasks(options: argparse.Namespace) -> "list[RepositoryTask]":
    from trieline.command_line.options import chosen_tasks
    from trieline.config import ConfigError

    if options.workers < 1:
        msg = f"--workers: expected at least 1, got {options.workers}"
        raise ConfigError(msg)
    return chosen_tasks(options.tasks, options.split, options.ids)


def _say(changed: str, unchanged: str, results: "Iterator[Done]", count: int) -> int:
    """A line an image, and how many came to what; 1 if one failed."""
    from trieline.common.text import LINES, visible

    counts = dict.fromkeys((changed, unchanged, "failed"), 0)
    for number, done in enumerate(results, start=1):
        became = "failed" if done.problem else changed if done.changed else unchanged
        counts[became] += 1
        detail = f": {visible(done.problem, keep=LINES)}" if done.problem else ""
        print(f"[{number}/{count}] {done.image}: {became}{detail}", flush=True)
    print(", ".join(f"{number} {became}" for became, number in counts.items() if number))
    return 1 if counts["failed"] else 0


def _smoke(options: argparse.Namespace) -> int:
    from trieline.common.text import LINES, visible
    from trieline.envs.sandbox import images

    failed = 0
    for name in options.names or images.names():
        reason = images.smoke(name)
        failed += reason is not None
        detail = "" if reason is None else f": {visible(reason, keep=LINES)}"
        print(f"{'OK  ' if reason is None else 'FAIL'}  {images.tag(name)}{detail}")
    return 1 if failed else 0
