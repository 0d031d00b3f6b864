"""A rank that is gone ends the others at once, and is named.

Whoever computes with it may wait for it until a time limit (NCCL), or get an error that names an address
(gloo). So rank 0 listens to each other rank, and each other rank to rank 0, for one byte that comes at the
end. A connection that breaks before says at once who is gone, whatever the process was about to do.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist

log = logging.getLogger(__name__)

NEVER = timedelta(days=30)
LOSS_SEEN_S = 10.0
"""An error of talking to a rank that is gone may come before it is noticed here."""


class Watch:
    """Listens to other ranks, a thread each."""

    def __init__(self, rank: int, names: Sequence[str], how_ended: Callable[[int], str]) -> None:
        """`names` of all ranks, and what is known of one that is gone, for messages."""
        self._names = names
        self._how_ended = how_ended
        self._rank = rank
        self._ignored = False
        self._group = dist.new_group(backend="gloo", timeout=NEVER)
        peers = range(1, len(names)) if rank == 0 else [0]
        self._threads = {
            peer: threading.Thread(target=self._listen, args=(peer,), daemon=True, name=f"rank {peer}")
            for peer in peers
        }
        for thread in self._threads.values():
            thread.start()

    def wait_for_loss(self) -> None:
        """If a rank is gone, this process ends in here."""
        time.sleep(LOSS_SEEN_S)

    def ignore(self) -> None:
        """This process ends by itself."""
        self._ignored = True

    def close(self) -> None:
        """Say farewell, and hear that of the others."""
        for peer in self._threads:
            dist.send(torch.zeros(1, dtype=torch.uint8), dst=peer, group=self._group)
        for thread in self._threads.values():
            thread.join()

    def _listen(self, peer: int) -> None:
        try:
            dist.recv(torch.zeros(1, dtype=torch.uint8), src=peer, group=self._group)
        except RuntimeError:
            if not self._ignored:
                self._end(peer)

    def _end(self, peer: int) -> None:
        if self._rank == 0:
            log.error(
                "%s is gone%s: the run ends here, and goes on from its latest checkpoint with --resume",
                self._names[peer],
                self._how_ended(peer),
            )
        else:
            log.info("rank 0 is gone: %s ends, too", self._names[self._rank])
        logging.shutdown()
        # Other threads may be stuck in the middle of talking to who is gone.
        os._exit(1)
