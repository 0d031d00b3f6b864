"""The ranks of one learner: rank 0 has the links and the run folder, the others compute with it.

What they tell each other beside gradients travels as bytes in plain tensors. All of it stays within the job,
in the open: torch's processes trust the network between them.
"""

import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import msgspec
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from trieline.learner.ranks.orders import End, Order
from trieline.learner.ranks.watch import Watch
from trieline.wire.codec import decode, encode
from trieline.wire.journal_segments import frames_of, payload_of
from trieline.wire.tree import TrajectoryTree

log = logging.getLogger(__name__)

ORDERS_TIMEOUT = timedelta(days=30)
"""For the next order. A rank that is gone is noticed by its connection (`Watch`), not by this."""
SUMS_TIMEOUT = timedelta(minutes=30)
"""For the slowest rank of a step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Which of the learner's processes this one is."""

    rank: int
    size: int
    local_rank: int
    """Among those on its machine; the number of its GPU."""


class Ranks:
    """This process's end of the group that `size` of them make up."""

    def __init__(
        self, place: Place, store: Store | None, *, how_ended: Callable[[int], str] = lambda rank: ""
    ) -> None:
        """Meet the others.

        Args:
            place: which one this is.
            store: where they meet; None: where the environment variables of torchrun say.
            how_ended: what is known of a rank that is gone, for messages.
        """
        self.rank, self.size = place.rank, place.size
        backend = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(
            backend, store=store, rank=self.rank, world_size=self.size, timeout=SUMS_TIMEOUT
        )
        self._orders: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=ORDERS_TIMEOUT)
        who = f"rank {self.rank} (process {os.getpid()} on {socket.gethostname()})"
        self.names = [name.decode() for name in self.gather(who.encode())]
        self._watch = Watch(self.rank, self.names, how_ended)
        self._closed = False
        if self.rank == 0:
            log.info("%d ranks compute: %s", self.size, ", ".join(self.names))

    @property
    def group(self) -> dist.ProcessGroup:
        """For what is neither a gradient nor on a GPU."""
        return self._orders

    def mesh(self, device: torch.device) -> DeviceMesh:
        """All ranks, along one dimension."""
        return init_device_mesh(device.type, (self.size,))

    def tell(self, order: Order, trees: Sequence[TrajectoryTree] = ()) -> None:
        """Rank 0: to all others, with the trees that the order is about."""
        assert self.rank == 0, "rank 0 gives the orders"
        self.share([msgspec.msgpack.encode(order), *(payload_of(encode(tree)) for tree in trees)])

    def hear(self) -> tuple[Order, list[TrajectoryTree]]:
        """The others: what rank 0 tells next."""
        order, *payloads = self.share([])
        trees = [decode(frames_of(p), TrajectoryTree, max_bytes=len(p)) for p in payloads]
        return msgspec.msgpack.decode(order, type=Order), trees

    def share(self, parts: Sequence[bytes]) -> list[bytes]:
        """What rank 0 gives to all."""
        count = torch.tensor([len(parts)])
        self._broadcast(count)
        sizes = torch.tensor([len(p) for p in parts] if self.rank == 0 else [0] * int(count))
        self._broadcast(sizes)
        total = int(sizes.sum())
        data = _as_tensor(b"".join(parts)) if self.rank == 0 else torch.empty(total, dtype=torch.uint8)
        if total:
            self._broadcast(data)
        return [part.numpy().tobytes() for part in torch.split(data, sizes.tolist())]

    def gather(self, data: bytes) -> list[bytes]:
        """What each rank gives, on all of them."""
        size = torch.tensor([len(data)])
        sizes = [torch.empty_like(size) for _ in range(self.size)]
        dist.all_gather(sizes, size, group=self._orders)
        most = max(int(s) for s in sizes)
        own = torch.zeros(most, dtype=torch.uint8)
        own[: len(data)] = _as_tensor(data)
        found = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(found, own, group=self._orders)
        return [part[: int(s)].numpy().tobytes() for part, s in zip(found, sizes, strict=True)]

    def wait_for_loss(self) -> None:
        """After an error of talking: what ends this process if another one is gone has a moment to do so."""
        self._watch.wait_for_loss()

    def close(self, *, end_others: bool = True) -> None:
        """Rank 0 ends the others, who wait for an order. Idempotent.

        `end_others`: False if they don't wait, but are in the middle of something: they end when this process
        does.
        """
        if self._closed:
            return
        self._closed = True
        if not end_others:
            self._watch.ignore()
            return
        if self.rank == 0:
            self.tell(End())
        self._watch.close()
        dist.destroy_process_group()

    def _broadcast(self, tensor: torch.Tensor) -> None:
        dist.broadcast(tensor, src=0, group=self._orders)


def _as_tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
