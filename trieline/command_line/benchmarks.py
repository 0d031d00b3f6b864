"""`trieline bench swe`: how many tasks of a data set does a policy resolve?"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trieline.envs.swe.predictions import Prediction
    from trieline.envs.swe.repository_task import RepositoryTask
    from trieline.launcher.swe_bench import Playing

POLICIES = "gold, empty, replay:FILE, run:FOLDER or openai:URL"


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs of this module to the command."""
    bench = verbs.add_parser("bench", help="benchmark a policy on tasks out of whole repositories")
    suites = bench.add_subparsers(dest="suite", required=True, metavar="SUITE")
    swe = suites.add_parser("swe", help="tasks in the schema of SWE-bench, graded in sandboxes")
    swe.add_argument("--data", type=Path, required=True, help="rows: a file, or the folder of a data set")
    swe.add_argument("--split", help="of a folder with several")
    swe.add_argument(
        "--policy",
        required=True,
        help="gold; empty; replay:PREDICTIONS; run:FOLDER, which plays a run's newest weights, a checkpoint, "
        "a model folder or whatever else model.path takes; openai:URL, which plays a model behind an "
        "endpoint of chat completions, such as openai:http://127.0.0.1:8000/v1",
    )
    swe.add_argument("--model", help="openai:URL asks for it; else its name in the predictions")
    swe.add_argument(
        "--key-variable",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="environment variable with the key of openai:URL; unset: none is sent (default: %(default)s)",
    )
    swe.add_argument(
        "--request",
        metavar="JSON",
        help="fields of the requests to openai:URL, null for one that is not sent, e.g. "
        '\'{"max_tokens": null, "max_completion_tokens": 4096}\'',
    )
    swe.add_argument("--output", type=Path, required=True, help="folder of everything that is written")
    swe.add_argument("--run-id", default="trieline", help="names the run in the files (default: %(default)s)")
    swe.add_argument("--checkouts", type=Path, help="folder with one of each instance, for bubblewrap")
    swe.add_argument("--backend", default="auto", choices=("auto", "docker", "bubblewrap"))
    swe.add_argument("--workers", type=int, default=1, help="instances at once (default: 1)")
    swe.add_argument(
        "--n", type=int, default=1, help="attempts at each task, of a policy that plays (default: 1)"
    )
    swe.add_argument("--timeout", type=float, default=1800.0, help="seconds for the tests of one instance")
    swe.add_argument("--ids", nargs="+", help="only these instances")
    swe.add_argument("--resume", action="store_true", help="go on with what the folder holds")
    swe.add_argument(
        "--config",
        action="append",
        metavar="RECIPE|FILE",
        help="how a policy plays: a recipe or a TOML file; several, the later wins (default: the run's own, "
        "or the recipe swe-bench)",
    )
    swe.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="A.B=VALUE",
        help="change one setting, e.g. --set envs.0.episode.max_turns=100 or --set actor.seed=1",
    )
    swe.set_defaults(run=_swe)


def _swe(options: argparse.Namespace) -> int:
    import shlex
    import sys

    from trieline.command_line.options import chosen_tasks
    from trieline.config import ConfigError
    from trieline.envs.sandbox import sweep
    from trieline.envs.swe.workspaces import workspaces_on
    from trieline.launcher.swe_bench import SweBench

    for name, least in (("workers", 1), ("n", 1)):
        if (value := getattr(options, name)) < least:
            msg = f"--{name}: expected at least {least}, got {value}"
            raise ConfigError(msg)
    tasks = chosen_tasks(options.data, options.split, options.ids)
    policy, model = _policy(options, tasks)
    workspaces = workspaces_on(options.backend, options.checkouts)
    if workspaces.backend == "docker":
        from trieline.envs.sandbox.docker import engine

        engine()  # which says so at once if none answers, and not of every instance
    sweep(workspaces.backend)  # after a run that was killed there may be nothing left to do but this
    bench = SweBench(
        tasks=tasks,
        policy=policy,
        model=model,
        folder=options.output,
        run_id=options.run_id,
        open_workspace=workspaces.open,
        attempts=options.n,
        workers=options.workers,
        wall_seconds=options.timeout,
    )
    if bench.run(resume=options.resume):
        return 0
    again = [word for word in sys.argv[1:] if word != "--resume"]
    sys.stderr.write(f"stopped. Go on with: trieline {shlex.join([*again, '--resume'])}\n")
    return 130


def _policy(
    options: argparse.Namespace, tasks: "Sequence[RepositoryTask]"
) -> "tuple[Mapping[str, Prediction] | Playing, str]":
    """The policy, and its name in the predictions."""
    import sys

    from trieline.config import ConfigError
    from trieline.launcher.swe_bench import predictions_of

    kind, colon, source = options.policy.partition(":")
    if options.policy in ("gold", "empty") or (kind == "replay" and source):
        given = {"n": options.n > 1, "model": options.model, "config": options.config}
        given |= {"set": options.settings, "request": options.request}
        if idle := next((name for name, value in given.items() if value), None):
            msg = f"expected no --{idle} with --policy {kind}, whose predictions are there already"
            raise ConfigError(msg)
        predictions = predictions_of(options.policy, tasks, complain=lambda s: sys.stderr.write(f"{s}\n"))
        return predictions, next(iter(predictions.values())).model_name_or_path
    if kind not in ("run", "openai") or not (colon and source):
        msg = f"--policy: expected {POLICIES}, got {options.policy!r}"
        raise ConfigError(msg)
    return _served(options, source) if kind == "run" else _over_endpoint(options, source)


def _served(options: argparse.Namespace, source: str) -> "tuple[Playing, str]":
    import msgspec
    from rich.console import Console

    from trieline.common.program_log import start_log
    from trieline.config import ConfigError
    from trieline.launcher.bench_policies import bench_config, served, weights_of
    from trieline.launcher.progress import say
    from trieline.launcher.training_run import prepare_model

    if options.request is not None:
        msg = f"expected --request with --policy openai:URL alone, got it with {options.policy}"
        raise ConfigError(msg)
    start_log()
    console = Console()
    weights = weights_of(source)
    config = bench_config(weights, options.config, options.settings, _environment(options))
    config = msgspec.structs.replace(config, model=prepare_model(config.model, console))
    playing = served(
        config,
        options.output,
        attempts=options.n,
        workers=options.workers,
        say=lambda text: say(console, text),
    )
    return playing, options.model or weights.name


def _over_endpoint(options: argparse.Namespace, source: str) -> "tuple[Playing, str]":
    from trieline.common.program_log import start_log
    from trieline.config import ConfigError
    from trieline.launcher.bench_policies import bench_config, over_endpoint
    from trieline.wire.chat_completions import ChatEndpoint, key_from

    start_log()
    if not options.model:
        msg = "--model: expected the name of a model at the endpoint, got none"
        raise ConfigError(msg)
    config = bench_config(None, options.config, options.settings, _environment(options))
    endpoint = ChatEndpoint(
        url=source,
        model=options.model,
        key=key_from(options.key_variable),
        fields=_fields(options.request),
    )
    playing = over_endpoint(config, endpoint, options.output, attempts=options.n, workers=options.workers)
    return playing, options.model


def _fields(request: str | None) -> dict[str, Any]:
    import json

    from trieline.config import ConfigError

    try:
        fields = json.loads(request) if request is not None else {}
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        msg = f"--request: expected a JSON object, got {request!r}"
        raise ConfigError(msg)
    return fields


def _environment(options: argparse.Namespace) -> dict[str, Any]:
    """What episodes are played on."""
    from trieline.launcher.swe_bench import ROWS_FILE

    kwargs = {
        "data": str((options.output / ROWS_FILE).absolute()),
        "backend": options.backend,
        "workspaces": max(64, options.workers),
    }
    return kwargs | ({"checkouts": str(options.checkouts.absolute())} if options.checkouts else {})
