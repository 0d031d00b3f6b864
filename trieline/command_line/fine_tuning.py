"""`trieline sft` and `trieline merge`: supervised fine-tuning on trees, and adapters into their model."""

import argparse
import math

# Enough for what is odd in a file of many conversations; a file in another format is refused soon.
MAX_UNUSABLE = 100


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs of this module to the command."""
    from trieline.command_line.options import add_config_options

    parser = verbs.add_parser(
        "sft",
        help="supervised fine-tuning on conversations that share prefixes, and on journals",
        description="Trains on the replies (role assistant) of conversations, one a line: "
        '{"messages": [{"role": ..., "content": ...}, ...], "tools": [...]}; weight 0 makes context. '
        "What conversations share is computed once.",
    )
    parser.add_argument("files", nargs="*", metavar="FILE.jsonl", help="conversations")
    parser.add_argument(
        "--journal",
        action="append",
        default=[],
        metavar="RUN",
        help="train on what the policy of this run (or journal folder) wrote; may be given several times",
    )
    parser.add_argument(
        "--min-return",
        type=float,
        default=-math.inf,
        metavar="R",
        help="of journals, only the sequences with at least this return",
    )
    parser.add_argument("--epochs", type=int, default=1, help="times that the data are gone through")
    parser.add_argument(
        "--max-unusable",
        type=int,
        default=MAX_UNUSABLE,
        metavar="N",
        help="lines of a file that may be no conversation for this model; they are left out and listed "
        f"(default {MAX_UNUSABLE})",
    )
    parser.add_argument(
        "--resume", metavar="RUN", help="go on with the run in this folder, from its latest checkpoint"
    )
    add_config_options(parser, default="sft")
    parser.set_defaults(run=_sft)

    merge = verbs.add_parser(
        "merge",
        help="write a model with the adapters that a run has trained as one Hugging Face folder",
        description="Of a run with learner.lora: W + alpha / rank B A for every adapted weight, in float32.",
    )
    merge.add_argument(
        "adapters",
        metavar="RUN",
        help="a run folder (its newest checkpoint), a checkpoint, or adapters of peft",
    )
    merge.add_argument("target", metavar="FOLDER", help="where to write; must not be there")
    merge.add_argument(
        "--base", metavar="MODEL", help="the model that was trained, if it has moved: as model.path takes it"
    )
    merge.set_defaults(run=_merge)


def _sft(options: argparse.Namespace) -> int:
    from pathlib import Path

    from trieline.command_line.options import read_config
    from trieline.common.program_log import start_log
    from trieline.config import ConfigError
    from trieline.launcher.run_folder import RunFolder
    from trieline.launcher.sft_run import resume_sft, run_sft, start_sft

    start_log()
    if options.resume:
        if options.files or options.journal or options.config or options.settings:
            msg = "--resume goes on with the run's own data and config.toml: expected nothing else with it"
            raise ConfigError(msg)
        folder = RunFolder.open(options.resume)
        return run_sft(resume_sft(folder), folder, resume=True)
    if not options.files and not options.journal:
        msg = "expected conversations to train on (FILE.jsonl, or --journal RUN), got none"
        raise ConfigError(msg)
    if options.min_return != -math.inf and not options.journal:
        msg = "--min-return has no effect without --journal"
        raise ConfigError(msg)
    if options.epochs < 1:
        msg = f"expected --epochs of at least 1, got {options.epochs}"
        raise ConfigError(msg)
    if options.max_unusable < 0:
        msg = f"expected --max-unusable of at least 0, got {options.max_unusable}"
        raise ConfigError(msg)
    config, folder = start_sft(
        read_config(options),
        files=[Path(f) for f in options.files],
        journals=[Path(j) for j in options.journal],
        min_return=options.min_return,
        epochs=options.epochs,
        max_unusable=options.max_unusable,
    )
    return run_sft(config, folder, resume=False)


def _merge(options: argparse.Namespace) -> int:
    from pathlib import Path

    from trieline.launcher.run_folder import RunFolder
    from trieline.learner.keeping.adapter_folder import find_adapters, merge_adapters

    folder = Path(options.adapters).expanduser()
    if (folder / "config.toml").is_file():
        folder = RunFolder.open(str(folder)).newest_checkpoint() or folder
    adapters, target = find_adapters(folder), Path(options.target).expanduser().absolute()
    base = merge_adapters(adapters, target, base=options.base)
    print(f"{target}: {base} with the adapters of {adapters}")
    return 0
