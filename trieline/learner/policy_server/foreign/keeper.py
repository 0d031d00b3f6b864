"""Runs a command for as long as whoever started it is there: it ends with the pipe on standard input.

First the command is asked to end (SIGTERM); what is left of its process group then, or some seconds later, is
killed.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading

END_S = 15.0


def main() -> None:
    """The command is the arguments."""
    # Not among what the command inherits.
    pipe = os.dup(0)
    try:
        process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, process_group=0)
    except OSError as error:
        sys.exit(f"can't start {sys.argv[1]}: {error.strerror}")

    def end_group() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def watch() -> None:
        while os.read(pipe, 1024):
            pass
        process.terminate()
        threading.Timer(END_S, end_group).start()

    threading.Thread(target=watch, name="pipe", daemon=True).start()
    status = process.wait()
    end_group()
    # A timer may still wait.
    os._exit(status & 0xFF)


if __name__ == "__main__":
    main()
