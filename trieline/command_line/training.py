"""`trieline train`: the whole loop on this machine, as child processes."""

import argparse


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs of this module to the command."""
    from trieline.command_line.options import add_config_options

    parser = verbs.add_parser(
        "train", help="train on this machine: starts learner, policy server and actors, and shows progress"
    )
    add_config_options(parser)
    parser.add_argument(
        "--resume", metavar="RUN", help="go on with the run in this folder, from its latest checkpoint"
    )
    parser.add_argument(
        "--on",
        choices=("here", "ray"),
        default="here",
        help="where actors and policy servers run",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the resolved configuration and stop")
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> int:
    import sys

    from trieline.command_line.options import read_config
    from trieline.common.program_log import start_log
    from trieline.config import ConfigError

    if options.resume:
        from trieline.launcher.run_folder import RunFolder
        from trieline.launcher.sft_run import DATA_FOLDER

        if options.config or options.settings:
            msg = "--resume goes on with the run's own config.toml: expected no --config or --set with it"
            raise ConfigError(msg)
        folder = RunFolder.open(options.resume)
        if (folder.path / DATA_FOLDER).is_dir():
            msg = f"expected a run of training, got one of: trieline sft --resume {folder.path}"
            raise ConfigError(msg)
        config, resume = folder.load_config(), True
    else:
        config, resume, folder = read_config(options), False, None
    if options.dry_run:
        import tomli_w

        from trieline.config import config_to_dict

        sys.stdout.write(tomli_w.dumps(config_to_dict(config)))
        return 0
    from trieline.launcher.training_run import run_training

    start_log()
    return run_training(config, folder=folder, resume=resume, on_ray=options.on == "ray")
