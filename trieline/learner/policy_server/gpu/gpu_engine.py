"""The engine on a GPU: a model and slots in its memory, decoding steps as CUDA graphs, draws made there."""

import functools
import logging

import numpy as np
import torch
from torch import Tensor

from trieline.kernels.gpu.availability import takes_triton
from trieline.learner.policy_server.batching.backend import Planned
from trieline.learner.policy_server.batching.engine import BatchingEngine, max_context_of
from trieline.learner.policy_server.batching.grammars import Grammars
from trieline.learner.policy_server.batching.sampling import RowSampling, Sampled
from trieline.learner.policy_server.batching.sequence import Sequence
from trieline.learner.policy_server.batching.stop_text import Decode
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.decoders.decoder import Decoder
from trieline.learner.policy_server.decoders.step import Step
from trieline.learner.policy_server.gpu.decode_steps import Columns, DecodeSteps, GraphRecorder, Record
from trieline.learner.policy_server.gpu.sampling import sample_on_device
from trieline.learner.policy_server.gpu.slot_cache import SlotCache, SlotChunk, SlotLayout
from trieline.learner.policy_server.gpu.slot_rows import SlotRows

log = logging.getLogger(__name__)


class GpuEngine(BatchingEngine):
    """`BatchingEngine` over a decoder on a GPU, or for tests on any device."""

    def __init__(
        self,
        decoder: Decoder,
        config: PolicyServerConfig,
        *,
        policy_version: int = 0,
        decode: Decode | None = None,
        grammars: Grammars | None = None,
        record: Record | None = None,
    ) -> None:
        """As `BatchingEngine`. `record`: what repeats decoding steps. None: CUDA graphs, where they run."""
        super().__init__(
            GpuBackend(decoder, config, record),
            config,
            policy_version=policy_version,
            decode=decode,
            grammars=grammars,
        )


class GpuBackend:
    """The `Backend` of `GpuEngine`."""

    def __init__(self, decoder: Decoder, config: PolicyServerConfig, record: Record | None) -> None:
        self.decoder = decoder
        self.places = SlotRows(
            decoder.device,
            max_rows=config.max_rows,
            max_context=max_context_of(config, decoder),
            kv_tokens=config.kv_tokens,
            prefix_tokens=config.prefix_tokens,
        )
        self._max_rows = config.max_rows
        self._cache = SlotCache(decoder.kv_shape, config.kv_tokens + 1, self.places.table_RC, decoder.dtype)
        self._record = record
        self._steps: DecodeSteps | None = None

    def forward(self, planned: Planned) -> Tensor:
        singles = [sequence for sequence, _ in planned if sequence.pending == 1]
        columns = self._columns(singles)
        if self._steps is not None and len(singles) == len(planned):
            return self._steps(columns)
        longest = int(columns[4].max(initial=1))
        return self._read(columns, planned[len(singles) :], longest)

    def sample(self, logits_SV: Tensor, how: RowSampling) -> Sampled:
        return sample_on_device(logits_SV, how)

    def warm_up(self) -> None:
        """Record the decoding steps, where that is of use: on a GPU with Triton, whose kernel never waits."""
        device = self.decoder.device
        record = self._record
        if record is None:
            if device.type != "cuda" or not takes_triton(device, self.decoder.dtype):
                return
            record = GraphRecorder()
        # What was recorded before must not be repeated if it can't be recorded anew.
        self._steps = None
        try:
            self._steps = DecodeSteps(self._decode, record, max_rows=self._max_rows, device=device)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            log.warning("decoding steps can't be CUDA graphs, so each launches its kernels: %s", reason)

    def rest(self) -> None:
        """A GPU that has nothing to do rests by itself."""

    def _columns(self, singles: list[Sequence]) -> Columns:
        """Of each single: its newest token, that one's position and slot, its row, and what it sees."""
        entries = [
            (
                one.tokens[one.filled],
                one.filled,
                self.places.slots(one)[one.filled],
                one.row,
                one.filled + 1,
            )
            for one in singles
        ]
        return np.array(entries, np.int64).reshape(-1, 5).T

    def _decode(self, columns_5M: Tensor) -> Tensor:
        token_ids, positions, slots, rows, lengths = columns_5M
        layout = SlotLayout(slots=slots, rows=rows, lengths=lengths, longest=self.places.table_RC.shape[1])
        sample_at = torch.arange(len(token_ids), device=token_ids.device)
        step = Step(token_ids=token_ids, positions=positions, sample_at=sample_at)
        return self.decoder.forward(step, functools.partial(self._cache.attend, layout))

    def _read(self, columns: Columns, reading: Planned, longest: int) -> Tensor:
        """A step with prompts in it; sampled from is whoever has no pending token left after it."""
        device, places, count = self.decoder.device, self.places, columns.shape[1]
        spans = [(one, slice(one.filled, one.filled + count)) for one, count in reading]
        ends = count + np.cumsum([read for _, read in reading], dtype=np.int64)
        complete = [one.pending == read for one, read in reading]
        token_ids, positions, slots = (
            torch.from_numpy(np.concatenate([first, *rest], dtype=np.int64)).to(device)
            for first, rest in (
                (columns[0], [one.tokens[span] for one, span in spans]),
                (columns[1], [np.arange(span.start, span.stop) for _, span in spans]),
                (columns[2], [places.slots(one)[span] for one, span in spans]),
            )
        )
        sample_at = np.concatenate([np.arange(count), ends[complete] - 1])
        layout = SlotLayout(
            slots=slots,
            rows=torch.from_numpy(columns[3].copy()).to(device),
            lengths=torch.from_numpy(columns[4].copy()).to(device),
            longest=longest,
            chunks=tuple(self._chunk(one, span) for one, span in spans),
        )
        step = Step(
            token_ids=token_ids, positions=positions, sample_at=torch.from_numpy(sample_at).to(device)
        )
        return self.decoder.forward(step, functools.partial(self._cache.attend, layout))

    def _chunk(self, sequence: Sequence, span: slice) -> SlotChunk:
        device, count = self.decoder.device, span.stop - span.start
        seen = None
        if span.start:
            seen = torch.ones(count, span.stop, dtype=torch.bool, device=device).tril_(span.start)
        slots = torch.from_numpy(self.places.slots(sequence)[: span.stop].astype(np.int64))
        return SlotChunk(slots=slots.to(device), count=count, seen=seen)
