"""Steps in which every running request gets one token, as CUDA graphs.

Launching the kernels of such a step one by one takes longer than they run. A graph launches them all at once,
but for the addresses and sizes that it was recorded with: so there is one for each of a few numbers of rows,
with its own inputs, and a step is padded to the next of them. Padding reads a token of another row and writes
to the scratch slot.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trieline.learner.policy_server.gpu.slot_pool import SCRATCH

log = logging.getLogger(__name__)

Columns = npt.NDArray[np.int64]
"""[5, M] token ids, positions, slots, rows and lengths of the singles."""
Compute = Callable[[Tensor], Tensor]
"""Columns on the device to logits [M, V]."""
Record = Callable[[Compute, Tensor], Callable[[], Tensor]]
"""Given what computes from inputs, and those: a call that does it again with what they hold by then."""

PADDING = np.array([[0], [0], [SCRATCH], [0], [1]], np.int64)


class DecodeSteps:
    """The recorded steps, for up to `max_rows` rows."""

    def __init__(self, compute: Compute, record: Record, *, max_rows: int, device: torch.device) -> None:
        self._steps: list[tuple[Tensor, Callable[[], Tensor]]] = []
        sizes = {1 << power for power in range(max_rows.bit_length())} | {max_rows}
        # The largest first: the memory that its graph takes serves the others.
        for size in sorted(sizes, reverse=True):
            inputs = torch.from_numpy(PADDING.repeat(size, 1)).to(device)
            self._steps.append((inputs, record(compute, inputs)))
        self._steps.reverse()

    def __call__(self, columns: Columns) -> Tensor:
        """Logits [M, V], good until the next call."""
        count = columns.shape[1]
        inputs, again = next(step for step in self._steps if step[0].shape[1] >= count)
        padded = np.concatenate([columns, PADDING.repeat(inputs.shape[1] - count, 1)], 1)
        inputs.copy_(torch.from_numpy(padded))
        return again()[:count]


class GraphRecorder:
    """Records CUDA graphs that share their memory: only one of them is in use at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Compute, inputs: Tensor) -> Callable[[], Tensor]:
        # Kernels are compiled and libraries get their work space before anything is recorded.
        beside: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(2):
                compute(inputs)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits = compute(inputs)

        def again() -> Tensor:
            graph.replay()
            return logits

        return again
