"""What making an environment says in a process that lacks a package."""

import subprocess
import sys
from typing import Any


def said_without(package: str, env_id: str, **kwargs: Any) -> str:
    """The kind of the error and its text."""
    program = f"""
import sys
sys.modules["{package}"] = None
from trieline.envs import make_env
try:
    make_env("{env_id}", **{kwargs!r})
except Exception as error:
    print(type(error).__name__, error)
"""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
