"""`trieline learner | policy-server | actor | model`: the programs of a run, each on its own."""

import argparse
import os
from pathlib import Path


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs of this module to the command."""
    from trieline.command_line.options import add_config_options

    learner = verbs.add_parser("learner", help="train on the trees that actors send; publish weights")
    add_config_options(learner)
    learner.add_argument(
        "--run", required=True, metavar="FOLDER", help="the run folder: journal, metrics, checkpoints"
    )
    learner.add_argument(
        "--resume", action="store_true", help="go on from the latest checkpoint in the run folder"
    )
    learner.add_argument(
        "--replay", metavar="JOURNAL", help="train from a recorded journal instead of live actors"
    )
    learner.set_defaults(run=_learner)

    server = verbs.add_parser("policy-server", help="answer the actors' requests with the newest weights")
    add_config_options(server)
    server.set_defaults(run=_policy_server)

    actor = verbs.add_parser(
        "actor", help="play episodes and send their trees to the learner; needs no torch"
    )
    add_config_options(actor)
    actor.set_defaults(run=_actor)

    model = verbs.add_parser("model", help="fetch or build a model once and print its folder")
    model.add_argument("path", help="builtin:smollm2-135m-instruct, builtin:tiny, a folder, or a hub name")
    model.set_defaults(run=_model)


def end_with_parent() -> None:
    """A program that a launcher started ends when the launcher is killed, instead of running on unseen."""
    if os.environ.get("TRIELINE_LAUNCHER_PID"):
        import ctypes
        import signal

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
