"""Runs a command for as long as whoever started it is there: it ends with the pipe on standard input.

First the command is asked to end (SIGTERM); what is left of its group some seconds later is killed.
"""

import os
import signal
import subprocess
import sys
import threading

END_S = 15.0


def main() -> None:
    """The command is the arguments; this process leads the group that is ended."""
    # Not among what the command inherits.
    pipe = os.dup(0)
    try:
        process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.exit(f"can't start {sys.argv[1]}: {error.strerror}")

    def watch() -> None:
        while os.read(pipe, 1024):
            pass
        process.terminate()
        try:
            process.wait(END_S)
        finally:
            os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="pipe", daemon=True).start()
    sys.exit(process.wait())


if __name__ == "__main__":
    main()
