"""The engine on the CPU: a model in the layout of its products, rows and trunks in its memory."""

import functools

import numpy as np
import torch
from torch import Tensor

from trieline.kernels.cpu.threads import LeftCores
from trieline.learner.policy_server.batching.backend import Planned
from trieline.learner.policy_server.batching.engine import BatchingEngine, max_context_of
from trieline.learner.policy_server.batching.grammars import Grammars
from trieline.learner.policy_server.batching.sampling import RowSampling, Sampled
from trieline.learner.policy_server.batching.sequence import Sequence
from trieline.learner.policy_server.batching.stop_text import Decode
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.cpu.kv_cache import KVCache
from trieline.learner.policy_server.cpu.layout import Chunk, Layout
from trieline.learner.policy_server.cpu.rows import Rows
from trieline.learner.policy_server.cpu.sampling import sample
from trieline.learner.policy_server.decoders.decoder import Decoder
from trieline.learner.policy_server.decoders.step import Step


class CpuEngine(BatchingEngine):
    """`BatchingEngine` over a decoder on the CPU."""

    def __init__(
        self,
        decoder: Decoder,
        config: PolicyServerConfig,
        *,
        policy_version: int = 0,
        decode: Decode | None = None,
        grammars: Grammars | None = None,
    ) -> None:
        """As `BatchingEngine`."""
        super().__init__(
            CpuBackend(decoder, config),
            config,
            policy_version=policy_version,
            decode=decode,
            grammars=grammars,
        )


class CpuBackend:
    """The `Backend` of `CpuEngine`."""

    def __init__(self, decoder: Decoder, config: PolicyServerConfig) -> None:
        self.decoder = decoder
        self.places = Rows(
            KVCache(decoder.kv_shape, decoder.dtype),
            max_rows=config.max_rows,
            max_context=max_context_of(config, decoder),
            kv_tokens=config.kv_tokens,
            prefix_tokens=config.prefix_tokens,
        )
        self._cores = LeftCores(torch.get_num_threads())

    def forward(self, planned: Planned) -> Tensor:
        self._cores.look()
        self.places.close_gaps()
        step, layout = _packed(planned, self.places)
        return self.decoder.forward(step, functools.partial(self.places.cache.attend, layout))

    def sample(self, logits_SV: Tensor, how: RowSampling) -> Sampled:
        return sample(logits_SV, how)

    def warm_up(self) -> None:
        """The first step has compiled all there is."""

    def rest(self) -> None:
        self._cores.rest()


def _packed(planned: Planned, rows: Rows) -> tuple[Step, Layout]:
    """The planned tokens side by side; sampled from is whoever has no pending token left after it."""
    singles = [sequence for sequence, _ in planned if sequence.pending == 1]
    read = planned[len(singles) :]
    chunks = tuple(
        Chunk(
            row=sequence.row,
            start=sequence.filled,
            stop=sequence.filled + count,
            trunk=-1 if (trunk := rows.trunk(sequence)) is None else trunk.slot,
            base=rows.base(sequence),
        )
        for sequence, count in read
    )
    newest = np.array([sequence.tokens[sequence.filled] for sequence in singles], np.int64)
    places = np.array([sequence.filled for sequence in singles], np.int64)
    ends = len(singles) + np.cumsum([count for _, count in read], dtype=np.int64)
    complete = [sequence.pending == count for sequence, count in read]
    step = Step(
        token_ids=torch.from_numpy(
            np.concatenate([newest, *(one.tokens[one.filled : one.filled + count] for one, count in read)])
        ),
        positions=torch.from_numpy(
            np.concatenate([places, *(np.arange(one.filled, one.filled + count) for one, count in read)])
        ),
        sample_at=torch.from_numpy(np.concatenate([np.arange(len(singles)), ends[complete] - 1])),
    )
    singles_M4 = np.array([_seen(sequence, rows) for sequence in singles], np.int64).reshape(-1, 4)
    return step, Layout(singles_M4=singles_M4, chunks=chunks)


def _seen(single: Sequence, rows: Rows) -> tuple[int, int, int, int]:
    """Its trunk and how much of it, its row and how much of that, with its newest token."""
    trunk, base = rows.trunk(single), rows.base(single)
    return trunk.slot if trunk else 0, base, single.row, single.filled - base + 1
