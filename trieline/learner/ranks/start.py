"""How the ranks of a learner come to be: started by rank 0 on its own machine, or all of them by torchrun."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch._C._distributed_c10d import FileStore

from trieline.learner.errors import LearnerError
from trieline.learner.ranks.group import Place, Ranks

log = logging.getLogger(__name__)

STORE = "TRIELINE_RANKS_STORE"
"""Environment variable: the file by which the ranks that rank 0 has started find it."""
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
FOLLOWER = "trieline.learner.follower"
END_S = 10.0
"""For a started rank to end after it was told to."""
STARTER = "TRIELINE_RANKS_STARTER"
"""Environment variable: the process id of rank 0, for the ranks that it has started."""
LOOK_S = 0.5
"""Whether one that has yet to meet the others has ended."""


def place_of(environment: Mapping[str, str]) -> Place | None:
    """The place that the environment variables of torchrun give this process; None: it stands alone.

    Raises:
        LearnerError: some of the variables are missing, or are no numbers.
    """
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return None
    wanted = TORCHRUN[:3] if STORE in environment else TORCHRUN
    if missing := [name for name in wanted if name not in environment]:
        msg = f"expected the environment variables of torchrun beside RANK, got none of {', '.join(missing)}"
        raise LearnerError(msg)
    try:
        rank, size, local = (int(environment[name]) for name in TORCHRUN[:3])
    except ValueError as error:
        msg = f"expected numbers in {', '.join(TORCHRUN[:3])}, got: {error}"
        raise LearnerError(msg) from error
    return Place(rank=rank, size=size, local_rank=local)


def is_other_rank() -> bool:
    """Whether this process is one that rank 0 tells what to do."""
    place = place_of(os.environ)
    return place is not None and place.rank > 0


class Crew:
    """Rank 0's end of the group, and the processes that it has started for it, if it has."""

    def __init__(self, num_ranks: int, device: torch.device) -> None:
        """Start the others, or meet those that torchrun has started.

        Raises:
            LearnerError: there are fewer GPUs than ranks, or torchrun has started another number of them.
        """
        self._children: list[subprocess.Popen[bytes]] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        place, store = place_of(os.environ), None
        if place is None:
            _expect_devices(num_ranks, device)
            place = Place(rank=0, size=num_ranks, local_rank=0)
            self._folder = tempfile.TemporaryDirectory(prefix="trieline-ranks-")
            path = Path(self._folder.name) / "store"
            # Nobody outside of this machine has to reach them.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            self._children = [_start(rank, num_ranks, path) for rank in range(1, num_ranks)]
            store = FileStore(str(path), num_ranks)
        elif num_ranks not in (1, place.size):
            msg = f"expected learner.ranks = {place.size}, the number that torchrun started, got {num_ranks}"
            raise LearnerError(msg)
        try:
            with _expecting_others(self._missing, at_end=lambda: self._end_children(0.0)):
                self.ranks = Ranks(place, store, how_ended=self._how_ended)
        except BaseException:
            self._end_children(0.0)
            raise

    @classmethod
    def of(cls, num_ranks: int, device: torch.device) -> "Crew | None":
        """As the constructor. None: this process alone is asked for."""
        place = place_of(os.environ)
        return None if num_ranks == 1 and (place is None or place.size == 1) else cls(num_ranks, device)

    def close(self, *, end_others: bool = True) -> None:
        """As `Ranks.close`; the started processes are gone afterwards. Idempotent."""
        self.ranks.close(end_others=end_others)
        self._end_children(END_S if end_others else 0.0)

    def _missing(self) -> str:
        gone = [rank for rank, child in enumerate(self._children, 1) if child.poll() is not None]
        if not gone:
            return ""
        return f"rank {gone[0]} ended{self._how_ended(gone[0])} before it met the others: the run ends here"

    def _how_ended(self, rank: int) -> str:
        if not self._children:
            return ""
        try:
            code = self._children[rank - 1].wait(1.0)
        except subprocess.TimeoutExpired:
            return ""
        return f", killed by {signal.Signals(-code).name}" if code < 0 else f" with exit code {code}"

    def _end_children(self, timeout_s: float) -> None:
        for child in self._children:
            try:
                child.wait(timeout_s)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if self._folder is not None:
            self._folder.cleanup()


def ranks_of_follower() -> Ranks:
    """Another rank's end of the group."""
    place = place_of(os.environ)
    assert place is not None, "started as one of several ranks"
    path = os.environ.get(STORE)
    with _expecting_others(_missing_starter):
        return Ranks(place, None if path is None else FileStore(path, place.size))


def _missing_starter() -> str:
    if os.environ.get(STARTER) in (None, str(os.getppid())):
        return ""
    return f"rank 0 ended before rank {os.environ.get('RANK')} met it: it ends, too"


@contextmanager
def _expecting_others(
    missing: Callable[[], str], at_end: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Inside, this process waits to meet the others, and ends as soon as one of them is `missing`."""
    met = threading.Event()

    def look() -> None:
        while not met.wait(LOOK_S):
            if (problem := missing()) and not met.is_set():
                log.error("%s", problem)
                at_end()
                logging.shutdown()
                # The main thread waits for it in the middle of torch.
                os._exit(1)

    threading.Thread(target=look, daemon=True, name="ranks that come").start()
    try:
        yield
    finally:
        met.set()


def _start(rank: int, size: int, store: Path) -> subprocess.Popen[bytes]:
    # In this process's group, so that who kills the learner with its group kills them all.
    return subprocess.Popen(
        [sys.executable, "-P", "-X", "utf8", "-m", FOLLOWER],
        stdin=subprocess.DEVNULL,
        env={
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            STORE: str(store),
            STARTER: str(os.getpid()),
        },
    )


def _expect_devices(num_ranks: int, device: torch.device) -> None:
    if device.type == "cuda" and torch.cuda.device_count() < num_ranks:
        msg = f"expected a GPU for each of learner.ranks = {num_ranks}, found {torch.cuda.device_count()}"
        raise LearnerError(msg)
