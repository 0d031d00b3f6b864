"""What an agent hands in where somebody else grades it: the end of an episode, kept as a file of its own.

`trieline bench swe` plays episodes of `trieline/SWE-v0` with `hand_in = FOLDER` and takes from there what
came of each: the patch goes into the predictions, and is graded as any other.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from trieline.common.folders import write_whole
from trieline.envs.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class HandIn:
    """The end of one episode."""

    patch: str = ""
    """A git diff, bytes that are not UTF-8 as lone surrogates. Empty: there is none."""
    cause: str = ""
    """Why there is none: `empty`, `not_taken`, `workspace_lost`. "" where there is one."""
    message: str = ""
    """More of the cause, for people."""
    submitted: bool = False
    """The agent said that it is done; else a limit ended the episode."""
    turns: int = 0
    """Replies of the agent."""


def write_hand_in(folder: Path, instance_id: str, handed_in: HandIn) -> None:
    """Keep it, on the disk when this returns, in place of an earlier one of the task. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(_path(folder, instance_id), json.dumps(asdict(handed_in)).encode("ascii"))


def take_hand_in(folder: Path, instance_id: str) -> HandIn | None:
    """What was handed in, which is gone from the folder then; None: nothing was.

    Raises:
        DataError: the file is not as it was written.
    """
    path = _path(folder, instance_id)
    try:
        found = HandIn(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        msg = f"expected {path} as it was written, got another: {error}"
        raise DataError(msg) from error
    path.unlink()
    return found


def _path(folder: Path, instance_id: str) -> Path:
    return folder / f"{instance_id}.json"
