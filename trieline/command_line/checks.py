"""`trieline check` and `trieline env`: is this machine ready, is this model exact, what is installed."""

import argparse

COLORS = {"OK": "green", "WARN": "yellow", "FAIL": "red"}


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs of this module to the command."""
    from trieline.command_line.options import add_config_options

    check = verbs.add_parser(
        "check", help="look over machine and config; `check model PATH`, `check memory`, ..."
    )
    add_config_options(check)
    check.set_defaults(run=_check)
    subjects = check.add_subparsers(dest="subject", metavar="[model PATH | env ID | memory]")
    model = subjects.add_parser(
        "model", help="prove on this very model that packed tries equal separate sequences"
    )
    model.add_argument("path")
    model.set_defaults(run=_check_model)
    memory = subjects.add_parser(
        "memory", help="what training and sampling take of a GPU's memory, found out without one"
    )
    memory.add_argument("--model", required=True, help="a folder with a config.json, or a shape by name")
    memory.add_argument("--card", type=float, default=80.0, help="GB of the GPU; default 80")
    memory.add_argument("--tokens", type=int, nargs="+", default=[8192], help="learner.max_tokens")
    memory.add_argument("--kv-tokens", type=int, default=65_536, help="policy_server.kv_tokens")
    memory.set_defaults(run=_check_memory)
    env = subjects.add_parser(
        "env", help="hold an environment against the contract (as `trieline envs check`)"
    )
    env.add_argument("id")
    env.set_defaults(run=_check_env)

    report = verbs.add_parser("env", help="what is installed here: the report to paste in an issue")
    report.add_argument("--json", action="store_true", help="machine-readable")
    report.set_defaults(run=_env)


def _check(options: argparse.Namespace) -> int:
    from rich.console import Console

    from trieline.command_line.options import read_config
    from trieline.launcher.machine_checks import check_machine
    from trieline.launcher.progress import say

    console = Console()
    failed = False
    for finding in check_machine(read_config(options)):
        failed |= finding.verdict == "FAIL"
        console.print(f"[{COLORS[finding.verdict]}]{finding.verdict:<4}[/]  ", end="")
        say(console, f"{finding.subject}: {finding.text}")
        if finding.next_step:
            say(console, f"      next: {finding.next_step}")
    return 1 if failed else 0


def _check_env(options: argparse.Namespace) -> int:
    from trieline.command_line.environments import check_one

    return check_one(options.id)


def _check_model(options: argparse.Namespace) -> int:
    from trieline.learner.model.model_check import check_model
    from trieline.learner.model_folder.model_source import prepare_model

    result = check_model(prepare_model(options.path))
    for line in result.lines:
        print(line)
    return 0 if result.exact else 1


def _check_memory(options: argparse.Namespace) -> int:
    from trieline.learner.memory_check import config_of, memory_lines

    lines = memory_lines(
        config_of(options.model),
        card_bytes=int(options.card * 1e9),
        tokens=options.tokens,
        kv_tokens=options.kv_tokens,
    )
    for line in lines:
        print(line)
    return 0


def _env(options: argparse.Namespace) -> int:
    import json

    from trieline.envs.sandbox import available_backends
    from trieline.launcher.machine import describe_machine

    report = {**describe_machine(), "sandboxes": {n: r or "works" for n, r in available_backends().items()}}
    if options.json:
        print(json.dumps(report, indent=2))
        return 0
    for key, value in report.items():
        if isinstance(value, dict):
            print(f"{key}:")
            for name, text in value.items():
                print(f"  {name}: {text}")
        else:
            print(f"{key}: {value}")
    return 0
