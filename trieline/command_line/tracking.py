"""`trieline track`: the figures of a run to an experiment tracker, while it goes on or later."""

import argparse


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb of this module to the command."""
    track = verbs.add_parser("track", help="send the figures of a run to Weights & Biases, Trackio or MLflow")
    track.add_argument("run_dir", metavar="RUN", help="a run folder")
    track.add_argument("--to", required=True, choices=("wandb", "trackio", "mlflow"), help="which tracker")
    track.add_argument("--follow", action="store_true", help="send what comes, too, until Ctrl-C")
    track.set_defaults(run=_track)


def _track(options: argparse.Namespace) -> int:
    import threading

    from trieline.command_line.processes import end_with_launcher
    from trieline.common.file_lock import file_lock
    from trieline.common.program_log import start_log
    from trieline.common.signals import on_stop_signal
    from trieline.launcher.run_folder import RunFolder
    from trieline.launcher.trackers.follower import Follower, sent_file
    from trieline.launcher.trackers.tracker import expect_installed, open_tracker, tracked_run

    start_log()
    end_with_launcher()
    expect_installed([options.to])
    folder, stop = RunFolder.open(options.run_dir), threading.Event()
    run = tracked_run(folder, folder.load_config())

    def react(name: str) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    lock = file_lock(
        sent_file(folder, options.to).with_suffix(".lock"), what=f"to send to {options.to}", timeout_s=0
    )
    with lock, on_stop_signal(react):
        follower = Follower(folder, options.to, lambda: open_tracker(options.to, run), stop=stop)
        return 0 if follower.run(follow=options.follow) else 1
