"""How processes are told apart, also those of several machines or containers, and one that was restarted."""

import os
import secrets
import socket


def new_process_name() -> str:
    """Unique to this start of this process: `<host>-<pid>-<8 hex digits>`."""
    return f"{socket.gethostname()[:200]}-{os.getpid()}-{secrets.token_hex(4)}"
