"""What an earlier start of the learner has accepted: read from the journal after a restart.

The journal tells which trees are safe already, and which of them no step has used up.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path

from trieline.common.folders import write_whole
from trieline.wire.errors import JournalError
from trieline.wire.journal import read_journal
from trieline.wire.messages import TreeDelivery

RUN_ID_FILE = "run_id"


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """What the journal of an earlier start holds."""

    keys: list[tuple[str, int]]
    """(actor id, sequence number) of every tree."""
    unused: list[TreeDelivery]
    """Trees that no step up to the checkpoint has used up, in order."""
    last_assignment: int
    """The highest assignment id; -1 without a tree."""

    def unused_tasks(self) -> list[tuple[str, str]]:
        """(environment id, task id) of each tree in `unused`."""
        return [(delivery.tree.env_id, delivery.tree.task_id) for delivery in self.unused]


def read_accepted(folder: Path, records_taken: int) -> Accepted:
    """Read the journal after a restart.

    Raises:
        JournalError: there is none, it is corrupt, or it lacks trees that the checkpoint has used.
    """
    keys, unused, last = [], [], -1
    for number, delivery in enumerate(read_journal(folder)):
        keys.append((delivery.actor_id, delivery.sequence_number))
        last = max(last, delivery.assignment_id)
        if number >= records_taken:
            unused.append(delivery)
    if len(keys) < records_taken:
        msg = (
            f"expected at least the {records_taken} trees in {folder} that the checkpoint has used, "
            f"got {len(keys)}"
        )
        raise JournalError(msg)
    return Accepted(keys=keys, unused=unused, last_assignment=last)


def run_id_of(folder: Path) -> str:
    """What tells actors this run from others at the same address: random, and kept beside the journal.

    A run that goes on with the journal, from a checkpoint or without one, is the same run: it takes the trees
    that were asked for before. Another folder is another run.

    Raises:
        JournalError: it can't be read or written.
    """
    path = folder / RUN_ID_FILE
    try:
        if not path.exists():
            write_whole(path, secrets.token_hex(8).encode())
        return path.read_text()
    except OSError as error:
        msg = f"can't keep the run's id in {path}: {error}"
        raise JournalError(msg) from error
