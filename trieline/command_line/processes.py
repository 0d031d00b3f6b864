"""`trieline learner | policy-server | actor | model`: the programs of a run, each on its own."""

import argparse
import os
import sys
from typing import TYPE_CHECKING

from trieline.command_line.options import add_config_options, read_config
from trieline.common.program_log import start_log

if TYPE_CHECKING:
    from trieline.config import Config


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs of this module to the command."""
    learner = verbs.add_parser("learner", help="train on the trees that actors send; publish weights")
    add_config_options(learner)
    learner.add_argument(
        "--run", required=True, dest="run_dir", metavar="FOLDER", help="journal, metrics, checkpoints"
    )
    learner.add_argument(
        "--resume", action="store_true", help="go on from the latest checkpoint in the run folder"
    )
    learner.set_defaults(run=_learner)

    server = verbs.add_parser("policy-server", help="answer the actors' requests with the newest weights")
    add_config_options(server)
    server.add_argument(
        "--engine-log", metavar="FILE", help="what an engine of others prints that is started here"
    )
    server.set_defaults(run=_policy_server)

    actor = verbs.add_parser(
        "actor", help="play episodes and send their trees to the learner; needs no torch"
    )
    add_config_options(actor)
    actor.set_defaults(run=_actor)

    gateway = verbs.add_parser(
        "gateway", help="serve agents that speak the APIs of OpenAI and Anthropic; record or train on them"
    )
    add_config_options(gateway)
    kept = gateway.add_mutually_exclusive_group()
    kept.add_argument(
        "--record",
        dest="record_dir",
        metavar="FOLDER",
        help="journal of what agents do, with no learner; without it, the learner's tasks are given out",
    )
    kept.add_argument(
        "--keep",
        dest="keep_dir",
        metavar="FOLDER",
        help="where sessions are kept until the learner has them, over restarts; --record has its own",
    )
    gateway.set_defaults(run=_gateway)

    model = verbs.add_parser("model", help="fetch or build a model once; prints its folder and precision")
    model.add_argument("path", help="builtin:smollm2-135m-instruct, builtin:tiny, a folder, or a hub name")
    model.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    model.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"), help="of the precision")
    model.set_defaults(run=_model)


def _learner(options: argparse.Namespace) -> int:
    config = _begin_program(options)
    from trieline.launcher.learner_program import run_learner_program
    from trieline.launcher.run_folder import RunFolder
    from trieline.learner.allocator import keep_freed_memory
    from trieline.learner.follower import run_follower
    from trieline.learner.ranks.start import is_other_rank

    keep_freed_memory()
    if is_other_rank():
        return run_follower()
    folder = RunFolder.attach(options.run_dir, config)
    return run_learner_program(config, folder, resume=options.resume)


def _policy_server(options: argparse.Namespace) -> int:
    config = _begin_program(options)
    from pathlib import Path

    from trieline.learner.allocator import keep_freed_memory
    from trieline.learner.policy_server.process import run_policy_server

    keep_freed_memory()
    return run_policy_server(
        config.policy_server,
        model=config.model,
        links=config.links,
        engine_log=None if options.engine_log is None else Path(options.engine_log),
    )


def _actor(options: argparse.Namespace) -> int:
    config = _begin_program(options)
    from trieline.actors.process import run_actor
    from trieline.wire.model_folder import tokenizer_folder

    folder = tokenizer_folder(config.model.path)
    return run_actor(
        config.actor,
        model_folder=folder,
        envs=config.envs,
        links=config.links,
        gateway=config.gateway,
        log_file=None,
        template_kwargs=config.model.template_kwargs,
    )


def _gateway(options: argparse.Namespace) -> int:
    config = _begin_program(options)
    from pathlib import Path

    from trieline.actors.chat import ChatRenderer
    from trieline.actors.gateway.assigned import run_gateway
    from trieline.actors.gateway.recording import run_recorder
    from trieline.wire.journal_header import header_of
    from trieline.wire.model_folder import tokenizer_folder

    folder = tokenizer_folder(config.model.path)
    renderer = ChatRenderer(folder, system_prompt="", template_kwargs=config.model.template_kwargs)
    if options.record_dir is None:
        return run_gateway(
            config.gateway,
            config.actor,
            renderer=renderer,
            envs=config.envs,
            links=config.links,
            record=None if options.keep_dir is None else Path(options.keep_dir),
        )
    return run_recorder(
        config.gateway,
        actor=config.actor,
        links=config.links,
        renderer=renderer,
        header=header_of(folder, renderer.vocab_size),
        folder=Path(options.record_dir),
    )


def _model(options: argparse.Namespace) -> int:
    import json

    from trieline.learner.model.compute_device import choose_device
    from trieline.learner.model.compute_dtype import choose_dtype, dtype_name
    from trieline.learner.model_folder.model_source import prepare_model

    folder = prepare_model(options.path, progress=_say)
    dtype = choose_dtype(options.dtype, choose_device(options.device))
    print(json.dumps({"folder": str(folder), "dtype": dtype_name(dtype)}))
    return 0


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _begin_program(options: argparse.Namespace) -> "Config":
    """Log to stderr (the launcher sends it to the program's log file), and end with the launcher."""
    start_log()
    end_with_launcher()
    from trieline.launcher.core_sharing import share_cores, spin_briefly

    spin_briefly()
    return share_cores(read_config(options))


def end_with_launcher() -> None:
    """Get SIGTERM when the launcher, if any, dies, however it dies, so that nothing runs on unseen."""
    if not (launcher := os.environ.get("TRIELINE_LAUNCHER_PID")):
        return
    import ctypes
    import signal

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != int(launcher):
        raise SystemExit(0)
