"""`trieline tasks make`: repository tasks out of packages, for training and benchmarks."""

import argparse
from pathlib import Path


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb of this module to the command."""
    tasks = verbs.add_parser("tasks", help="make tasks out of packages, each verified in sandboxes")
    actions = tasks.add_subparsers(dest="action", required=True, metavar="ACTION")
    make = actions.add_parser("make", help="rows in the schema of SWE-bench, and a checkout for each")
    make.add_argument("--recipe", required=True, help="`mini`, or a TOML file")
    make.add_argument("--output", type=Path, required=True, help="folder of all that is made; goes on there")
    make.add_argument("--packages", nargs="+", metavar="NAME", help="only these of the recipe")
    make.add_argument("--kinds", nargs="+", metavar="KIND", help="only these: mutation, release, history")
    make.add_argument("--workers", type=int, default=1, help="packages at once (default: 1)")
    make.add_argument("--timeout", type=float, default=300.0, help="seconds for one run of tests")
    make.set_defaults(run=_make)


def _make(options: argparse.Namespace) -> int:
    import shlex
    import sys

    from trieline.config import ConfigError
    from trieline.envs.sandbox import Sandbox, SandboxSpec, open_sandbox
    from trieline.envs.sandbox.backends import resolve_backend
    from trieline.envs.swe.repository_task import WORKDIR
    from trieline.envs.swe.workspaces import GRADING
    from trieline.launcher.task_making import KINDS, TaskMaking
    from trieline.launcher.task_recipes import read_task_recipe

    if options.workers < 1:
        msg = f"--workers: expected at least 1, got {options.workers}"
        raise ConfigError(msg)
    recipe = read_task_recipe(options.recipe)
    for name, chosen, known in (
        ("--packages", options.packages, {package.name for package in recipe.packages}),
        ("--kinds", options.kinds, set(KINDS)),
    ):
        if unknown := set(chosen or ()) - known:
            msg = f"{name}: expected some of {sorted(known)}, got {sorted(unknown)}"
            raise ConfigError(msg)
    backend = resolve_backend("bubblewrap")

    def open_workspace(checkout: Path) -> Sandbox:
        return open_sandbox(backend, GRADING, SandboxSpec(checkout=str(checkout.resolve()), workdir=WORKDIR))

    making = TaskMaking(
        recipe=recipe,
        recipe_folder=Path(options.recipe).parent,
        folder=options.output,
        open_workspace=open_workspace,
        packages=frozenset(options.packages) if options.packages else None,
        kinds=frozenset(options.kinds or KINDS),
        workers=options.workers,
        wall_seconds=options.timeout,
        say=lambda text: print(text, flush=True),
    )
    if making.run():
        return 0
    sys.stderr.write(f"stopped. Go on with the same command: trieline {shlex.join(sys.argv[1:])}\n")
    return 130
