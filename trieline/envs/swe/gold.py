"""The gold patch of a task as an agent would bring it about: by commands."""

import base64

from trieline.envs.errors import PatchError, TaskError
from trieline.envs.swe.patches import checked_patch
from trieline.envs.swe.replies import MOST_COMMAND
from trieline.envs.swe.repository_task import RepositoryTask

APPLY = "git apply --whitespace=nowarn -"
CHUNK = MOST_COMMAND - 1000
COLLECTED = "/tmp/gold.base64"


def gold_commands(task: RepositoryTask, *, then: str = "") -> list[str]:
    """Commands that apply the gold patch; `then` follows the last one, if it succeeds.

    Raises:
        TaskError: git may not have it.
    """
    then = then and f" && {then}"
    try:
        patch = checked_patch(task.patch).contents[0]
    except PatchError as error:
        msg = f"{task.instance_id}: expected a gold patch that git may have, got one refused: {error}"
        raise TaskError(msg) from error
    try:
        readable = patch.decode("utf-8")
    except UnicodeDecodeError:
        readable = ""
    if readable and "\0" not in readable and len(patch) <= CHUNK:
        end = "END_OF_PATCH"
        while end in readable:
            end += "_"
        return [f"{APPLY} <<'{end}'{then}\n{readable}{end}"]
    text = base64.b64encode(patch).decode()
    parts = [text[at : at + CHUNK] for at in range(0, len(text), CHUNK)]
    if len(parts) == 1:
        return [f"base64 -d <<< {text} | {APPLY}{then}"]
    return [*(f"echo {part} >> {COLLECTED}" for part in parts), f"base64 -d {COLLECTED} | {APPLY}{then}"]
