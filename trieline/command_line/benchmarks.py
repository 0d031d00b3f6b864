"""`trieline bench swe`: how many tasks of a data set does a policy resolve?"""

import argparse
from pathlib import Path


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs of this module to the command."""
    bench = verbs.add_parser("bench", help="benchmark a policy on tasks out of whole repositories")
    suites = bench.add_subparsers(dest="suite", required=True, metavar="SUITE")
    swe = suites.add_parser("swe", help="tasks in the schema of SWE-bench, graded in sandboxes")
    swe.add_argument("--data", type=Path, required=True, help="rows: a file, or the folder of a data set")
    swe.add_argument("--split", help="of a folder with several")
    swe.add_argument("--policy", required=True, help="gold, empty, or replay:PREDICTIONS")
    swe.add_argument("--output", type=Path, required=True, help="folder of everything that is written")
    swe.add_argument("--run-id", default="trieline", help="names the run in the files (default: %(default)s)")
    swe.add_argument("--checkouts", type=Path, help="folder with one of each instance, for bubblewrap")
    swe.add_argument("--backend", default="auto", choices=("auto", "docker", "bubblewrap"))
    swe.add_argument("--workers", type=int, default=1, help="instances at once (default: 1)")
    swe.add_argument("--timeout", type=float, default=1800.0, help="seconds for the tests of one instance")
    swe.add_argument("--ids", nargs="+", help="only these instances")
    swe.add_argument("--resume", action="store_true", help="go on with what the folder holds")
    swe.set_defaults(run=_swe)


def _swe(options: argparse.Namespace) -> int:
    import shlex
    import sys

    from trieline.command_line.options import chosen_tasks
    from trieline.config import ConfigError
    from trieline.envs.swe.workspaces import workspaces_on
    from trieline.launcher.swe_bench import SweBench, predictions_of

    if options.workers < 1:
        msg = f"--workers: expected at least 1, got {options.workers}"
        raise ConfigError(msg)
    tasks = chosen_tasks(options.data, options.split, options.ids)
    predictions = predictions_of(options.policy, tasks, complain=lambda text: sys.stderr.write(f"{text}\n"))
    workspaces = workspaces_on(options.backend, options.checkouts)
    if workspaces.backend == "docker":
        from trieline.envs.sandbox.docker import engine

        engine()  # which says so at once if none answers, and not of every instance
    bench = SweBench(
        tasks=tasks,
        predictions=predictions,
        folder=options.output,
        run_id=options.run_id,
        open_workspace=workspaces.open,
        workers=options.workers,
        wall_seconds=options.timeout,
    )
    if bench.run(resume=options.resume):
        return 0
    again = [word for word in sys.argv[1:] if word != "--resume"]
    sys.stderr.write(f"stopped. Go on with: trieline {shlex.join([*again, '--resume'])}\n")
    return 130
