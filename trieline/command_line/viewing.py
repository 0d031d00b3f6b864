"""`trieline view`: a page of trajectory trees, in one file or of a run that goes on."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trieline.launcher.view.selection import Selection

DEFAULT_FILE = "view.html"


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb of this module to the command."""
    view = verbs.add_parser("view", help="trajectory trees as a page for the browser, in one file")
    view.add_argument("run_dir", metavar="RUN", help="a run folder, a journal folder, or a file of one tree")
    view.add_argument(
        "--output",
        metavar="FILE",
        help=f"where to write it (default: {DEFAULT_FILE} in the run folder, else here)",
    )
    view.add_argument("--tasks", type=int, metavar="N", help="how many trees at most, evenly spaced (300)")
    view.add_argument(
        "--from", dest="first", type=int, default=0, metavar="N", help="no trees before this one"
    )
    view.add_argument("--to", dest="last", type=int, metavar="N", help="no trees after this one")
    view.add_argument("--env", action="append", default=[], metavar="ID", help="trees of this environment")
    view.add_argument(
        "--model", metavar="MODEL", help="whose tokenizer it is, where the recording doesn't say"
    )
    view.add_argument(
        "--live", action="store_true", help="serve it on this machine, and show trees as they come"
    )
    view.add_argument("--port", type=int, default=0, help="of --live (default: any that is free)")
    view.set_defaults(run=_view)


def _view(options: argparse.Namespace) -> int:
    from pathlib import Path

    from trieline.config import ConfigError
    from trieline.launcher.recording import find_recording
    from trieline.launcher.view.page import write_page
    from trieline.launcher.view.selection import MOST_TREES, Selection

    if not Path(options.run_dir).exists():
        msg = f"expected a run folder, a journal or a tree at {options.run_dir}, found nothing there"
        raise ConfigError(msg)
    selection = Selection(
        most=MOST_TREES if options.tasks is None else options.tasks,
        first=options.first,
        last=options.last,
        env_ids=tuple(options.env),
    )
    if options.live:
        return _serve(options, selection)
    recording = find_recording(options.run_dir)
    path = Path(options.output or (recording.run_dir or Path()) / DEFAULT_FILE)
    chosen = write_page(recording, selection, path, model=options.model)
    note = chosen.note()
    print(f"{chosen.shown} trees in {path}" + (f" ({note})" if note else ""))
    return 0


def _serve(options: argparse.Namespace, selection: "Selection") -> int:
    import asyncio

    from trieline.config import ConfigError
    from trieline.launcher.view.live import GrowingTrees, serve

    if options.output is not None:
        msg = f"expected --output or --live, got both (--output {options.output})"
        raise ConfigError(msg)
    if not 0 <= options.port < 1 << 16:
        msg = f"expected a --port in [0, 65536), got {options.port}"
        raise ConfigError(msg)
    trees = GrowingTrees(path=options.run_dir, selection=selection, model=options.model)
    try:
        asyncio.run(
            serve(trees, port=options.port, started=lambda url: print(f"{url}\nCtrl-C ends it", flush=True))
        )
    except OSError as error:
        msg = f"can't serve on port {options.port}: {error.strerror or error}"
        raise ConfigError(msg) from error
    return 0
