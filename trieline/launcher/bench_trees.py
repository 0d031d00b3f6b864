"""The trees of a benchmark's episodes: each waits in a file of its own for its grade, then joins the journal.

    played/<attempt>/<instance id>.tree    played, its reward not known yet
    journal/                               graded; what `trieline show` draws

An episode is played when its tree is in `played/` and its prediction is written, in this order; it is settled
when its tree, with its reward, is in the journal. Killed at any moment, a run that goes on finds each of its
trees in one of the two places, and puts none into the journal twice.
"""

import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec

from trieline.wire.journal import Journal, read_journal, read_tree, write_tree
from trieline.wire.journal_header import JournalHeader
from trieline.wire.messages import TreeDelivery
from trieline.wire.tree import SCORED, TrajectoryTree

SENDER = "bench"
Key = tuple[int, str]
"""Attempt, from 1, and instance id."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an episode beside its tree; kept in the notes of the tree."""

    attempt: int
    ending: str
    """One of `bench_player.ENDINGS`."""
    turns: int
    seconds: float
    """From the reset to the end, without the grade."""
    read_tokens: int | None = None
    """Tokens that the policy was given, counted anew at every turn; None: it does not say."""
    sampled_tokens: int | None = None
    message: str = ""
    """Why there is no patch, or what of it was left out."""

    def noted_in(self, tree: TrajectoryTree) -> TrajectoryTree:
        """The tree with these among its notes."""
        own = {name: str(v) for name, v in msgspec.structs.asdict(self).items() if v is not None}
        return msgspec.structs.replace(tree, info=tree.info | own)


def facts_of(tree: TrajectoryTree) -> Facts:
    """What `noted_in` wrote. Raises msgspec.ValidationError for another tree."""
    return msgspec.convert(tree.info, Facts, strict=False)


class BenchTrees:
    """Those of one folder. Any thread may call it; a second process is refused."""

    def __init__(self, folder: Path, header: JournalHeader | None) -> None:
        """Raises JournalError: as `Journal` and `read_journal`."""
        self._played = folder / "played"
        self._lock = threading.Lock()
        self._journal = Journal(folder / "journal", fsync_s=0.0, header=header)
        self._facts: dict[Key, Facts] = {}
        try:
            for delivery in read_journal(folder / "journal"):
                facts = facts_of(delivery.tree)
                self._facts[facts.attempt, delivery.tree.task_id] = facts
        except BaseException:
            self._journal.close()
            raise
        self._settled = set(self._facts)

    def keep(self, tree: TrajectoryTree, facts: Facts) -> None:
        """Keep the tree of an episode that was just played. Raises OSError."""
        path = self._path((facts.attempt, tree.task_id))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tree(path, _delivery(facts.noted_in(tree), 0))
        with self._lock:
            self._facts[facts.attempt, tree.task_id] = facts

    def facts(self, key: Key) -> Facts | None:
        """Of an episode; None: its tree is not here."""
        if key not in self._facts and self._path(key).exists():
            self._facts[key] = facts_of(read_tree(self._path(key)).tree)
        return self._facts.get(key)

    def is_settled(self, key: Key) -> bool:
        """Its tree is in the journal, or nowhere."""
        return not self._path(key).exists()

    def settle(self, key: Key, reward: float, grade: str) -> None:
        """Put the tree of a graded episode into the journal, once, however often this is called.

        `grade`: what came of the patch, for people. Raises JournalError, OSError.
        """
        path = self._path(key)
        with self._lock:
            if key not in self._settled:
                if not path.exists():
                    return
                tree = rewarded(read_tree(path).tree, reward)
                tree = msgspec.structs.replace(tree, info=tree.info | {"grade": grade})
                self._journal.append(_delivery(tree, self._journal.num_records))
                self._settled.add(key)
        path.unlink(missing_ok=True)

    def close(self) -> None:
        """Idempotent. Raises JournalError."""
        self._journal.close()
        for folder in (*self._played.glob("*"), self._played):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _path(self, key: Key) -> Path:
        return self._played / str(key[0]) / f"{key[1]}.tree"


def rewarded(tree: TrajectoryTree, reward: float) -> TrajectoryTree:
    """The tree of one episode with a reward at its end, unless the episode is broken."""
    if tree.leaf_causes[-1] != SCORED:
        return tree
    rewards = tree.rewards.copy()
    rewards[tree.leaf_nodes[-1]] += reward
    return msgspec.structs.replace(tree, rewards=rewards)


def _delivery(tree: TrajectoryTree, number: int) -> TreeDelivery:
    return TreeDelivery(
        actor_id=SENDER, sequence_number=number, assignment_id=number, tree=tree, purpose="evaluate"
    )


def totals(facts: Mapping[Key, Facts]) -> dict[str, float | int | None]:
    """Sums over episodes; tokens are None if one does not know them."""
    read = [f.read_tokens for f in facts.values()]
    sampled = [f.sampled_tokens for f in facts.values()]
    return {
        "turns": sum(f.turns for f in facts.values()),
        "seconds": round(sum(f.seconds for f in facts.values()), 3),
        "read_tokens": None if None in read else sum(n for n in read if n is not None),
        "sampled_tokens": None if None in sampled else sum(n for n in sampled if n is not None),
    }
