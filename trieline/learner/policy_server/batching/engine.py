"""Continuous batching: requests join and leave between steps.

Every step reads some more prompt tokens, and samples one token for each request that has read its prompt.

Invariants: a running request has at least one token without keys and values (its newest); whatever is in the
prefix cache was computed by the current weights alone.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from trieline.common.file_lock import reading
from trieline.common.prefix import common_prefix
from trieline.learner.keeping.weight_file import adapter_config, read_weights
from trieline.learner.model_folder.adapter_weights import LowRank, low_ranks, read_settings
from trieline.learner.policy_server.batching.backend import Backend, Planned
from trieline.learner.policy_server.batching.grammars import Grammars, GrammarState
from trieline.learner.policy_server.batching.sampling import RowSampling, Sampled
from trieline.learner.policy_server.batching.sequence import Sequence
from trieline.learner.policy_server.batching.stop_text import Decode, StopText
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.decoders.decoder import Decoder
from trieline.learner.policy_server.engine import Finished, Refused, Ticket
from trieline.learner.policy_server.errors import InvalidRequestError
from trieline.learner.policy_server.request_checks import expect_possible
from trieline.wire.messages import GenerateRequest, Sampling

# A request waits for another that is reading the same prompt if that saves it at least so many tokens.
WORTH_WAITING = 8
SEED_MASK = (1 << 64) - 1


@dataclass(slots=True)
class EngineCounters:
    """Tokens since the start."""

    generated: int = 0
    prefilled: int = 0
    reused: int = 0
    """Prompt tokens whose keys and values came from the prefix cache."""


class BatchingEngine:
    """Owns the requests; `step` moves all of them on by one token."""

    name = "own"
    entropies: Literal["exact"] = "exact"

    def __init__(
        self,
        backend: Backend,
        config: PolicyServerConfig,
        *,
        policy_version: int = 0,
        decode: Decode | None = None,
        grammars: Grammars | None = None,
    ) -> None:
        """`decode`: for stop strings, `grammars`: for grammars; None: requests with some are refused."""
        self.decoder = backend.decoder
        self.policy_version = policy_version
        self.admits = True
        self.max_context = max_context_of(config, backend.decoder)
        self.counters = EngineCounters()
        self._config = config
        self._decode = decode
        self._grammars = grammars
        self._refused: list[Refused] = []
        self._waiting: deque[Sequence] = deque()
        self._backend = backend
        self._warm = False
        self._places = backend.places

    @property
    def vocab_size(self) -> int:
        return self.decoder.vocab_size

    @property
    def dtype(self) -> str:
        """Compute precision."""
        return str(self.decoder.dtype).removeprefix("torch.")

    @property
    def tokens_generated(self) -> int:
        """Since the start."""
        return self.counters.generated

    @property
    def running(self) -> int:
        """Requests that have a row."""
        return len(self._places)

    @property
    def waiting(self) -> int:
        """Requests that wait for one."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        return bool(self._waiting) or len(self._places) > 0

    def submit(self, peer: bytes, request: GenerateRequest) -> None:
        """Take a request in that `check` has let pass."""
        stop = request.sampling.stop
        stop_text = StopText(stop, self._decode) if stop and self._decode else None
        grammar = self._grammar(request.sampling)
        self._waiting.append(Sequence.start((peer, request.request_id), request, stop_text, grammar))

    def cancel(self, ticket: Ticket) -> None:
        """Forget one request; its row is free at once."""
        for sequence in self._waiting:
            if sequence.ticket == ticket:
                self._waiting.remove(sequence)
                return
        for sequence in self._places:
            if sequence.ticket == ticket:
                self._places.remove(sequence)
                return

    def take_refused(self) -> list[Refused]:
        """Requests that turned out to be none that can be answered, since this was last asked."""
        refused, self._refused = self._refused, []
        return refused

    def close(self) -> None:
        """End what it has started. Idempotent."""
        if self._grammars is not None:
            self._grammars.close()

    def warm_up(self) -> None:
        """Answer a request of nobody's: kernels are compiled at their first call, in some seconds."""
        request = GenerateRequest(
            request_id=0, prompt=np.zeros(1, np.int32), sampling=Sampling(max_tokens=1, seed=0)
        )
        self.submit(b"", request)
        while self.busy:
            self.step()
        self._backend.warm_up()
        self._warm = True
        self.drain()
        self.counters = EngineCounters()

    def load(self, weights: Path, policy_version: int) -> None:
        """Change the weights to those of a safetensors file, or to the model's own with its adapters.

        Raises:
            CheckpointError: the file does not fit the model; the old weights stay.
        """
        with reading(weights):
            config = adapter_config(weights)
            if config is None:
                self.take_weights(read_weights(weights, expected=self.decoder.weights), policy_version)
                return
            settings, shapes = read_settings(config, where=weights), self.decoder.weights.shapes
            self._adapt(low_ranks(read_weights(weights), settings, shapes, where=weights))
            self._take_version(policy_version)

    def take_weights(self, tensors: Mapping[str, Tensor], policy_version: int) -> None:
        """Change the weights to these, which fit the model."""
        self._adapt({})
        self.decoder.load(tensors)
        self._take_version(policy_version)

    def _adapt(self, adapters: Mapping[str, LowRank]) -> None:
        # What the backend has recorded of a step knows nothing of adapters that come or go.
        if self.decoder.adapt(adapters) and self._warm:
            self._backend.warm_up()

    def _take_version(self, policy_version: int) -> None:
        """The weights are of this version now.

        Requests that have sampled go on with the keys and values that they have; the others read their
        prompts anew, since their first token would carry a version that has not read the prompt.
        """
        self.policy_version = policy_version
        self._places.forget()
        for sequence in reversed([one for one in self._places if one.length == one.prompt_length]):
            self._places.remove(sequence)
            sequence.restart()
            self._waiting.appendleft(sequence)

    def drain(self) -> list[Ticket]:
        """Forget every request and every cached token; whose requests those were."""
        # Once each: a step that failed while it gave a request a row may have left it in both.
        dropped = [sequence.ticket for sequence in dict.fromkeys((*self._places, *self._waiting))]
        self._waiting.clear()
        self._places.clear()
        return dropped

    def step(self) -> list[Finished]:
        """One forward; the requests that it finished. Does nothing if nothing is to be done."""
        self._admit()
        planned = self._plan()
        if not planned:
            self._backend.rest()
            return []
        return self._advance(planned, self._backend.forward(planned))

    def check(self, request: GenerateRequest) -> None:
        """Raise InvalidRequestError if it can never be answered."""
        expect_possible(request, vocab_size=self.decoder.vocab_size, max_context=self.max_context)
        sampling = request.sampling
        if sampling.stop and self._decode is None:
            msg = f"expected no stop strings (the model's folder has no tokenizer.json), got {sampling.stop}"
            raise InvalidRequestError(msg)
        self._grammar(sampling)

    def _grammar(self, sampling: Sampling) -> GrammarState | None:
        if not (sampling.json_schema or sampling.lark):
            return None
        if self._grammars is None:
            msg = "expected no grammar (the model's folder has no tokenizer.json), got one"
            raise InvalidRequestError(msg)
        return self._grammars.start(sampling)

    def _admit(self) -> None:
        """Give rows to waiting requests in their order, but for those that wait for a shared prompt."""
        reading = [sequence for sequence in self._places if sequence.filled < sequence.prompt_length]
        budget = self._config.prefill_tokens - sum(sequence.pending for sequence in reading)
        held_back: list[Sequence] = []
        try:
            while self.admits and self._waiting and budget > 0:
                sequence = self._waiting[0]
                prompt = sequence.tokens[: sequence.length]
                matched = self._places.matched(sequence.readable)
                if any(
                    common_prefix(one.tokens[: one.length], prompt) >= matched + WORTH_WAITING
                    for one in reading
                ):
                    held_back.append(self._waiting.popleft())
                    continue
                if not self._places.place(sequence, self.policy_version):
                    break
                self._waiting.popleft()
                self.counters.reused += sequence.filled
                if sequence.pending > 1:
                    reading.append(sequence)
                    budget -= sequence.pending
        finally:
            self._waiting.extendleft(reversed(held_back))

    def _plan(self) -> Planned:
        budget = self._config.prefill_tokens
        planned = []
        for sequence in self._places:
            count = 1 if sequence.pending == 1 else min(sequence.pending, budget)
            if sequence.pending > 1:
                budget -= count
            if count:
                planned.append((sequence, count))
        return sorted(planned, key=lambda entry: entry[0].pending > 1)

    def _advance(self, planned: Planned, logits: Tensor) -> list[Finished]:
        sampling: list[Sequence] = []
        for sequence, count in planned:
            sequence.filled += count
            if count > 1:
                self.counters.prefilled += count
            if sequence.pending == 0:
                sampling.append(sequence)
                if sequence.length == sequence.prompt_length:
                    self._remember_prompt(sequence)
        if not sampling:
            return []
        return self._take(sampling, self._backend.sample(logits, _how(sampling)))

    def _take(self, sampling: list[Sequence], sampled: Sampled) -> list[Finished]:
        done: list[Sequence] = []
        columns = zip(
            sampling,
            sampled.token_ids.tolist(),
            sampled.logprobs.tolist(),
            sampled.entropies.tolist(),
            strict=True,
        )
        for row, (sequence, token_id, logprob, entropy) in enumerate(columns):
            if sequence.refusal or sequence.append(
                token_id, logprob, entropy, self.policy_version, sampled.masks.get(row)
            ):
                done.append(sequence)
                self._remember(sequence, sequence.filled)
        answered = [one for one in done if not one.refusal]
        finished = [Finished(ticket=one.ticket, completion=one.completion()) for one in answered]
        self._refused += [
            Refused(ticket=one.ticket, kind="invalid", reason=one.refusal) for one in done if one.refusal
        ]
        self.counters.generated += len(sampling)
        # What can fail is over: a request has a row until its answer is on its way.
        for sequence in done:
            self._places.remove(sequence)
        return finished

    def _remember_prompt(self, sequence: Sequence) -> None:
        # In two pieces: the other rollouts of the task reuse all but the last token, and go on after it.
        self._remember(sequence, sequence.filled - 1)
        self._remember(sequence, sequence.filled)

    def _remember(self, sequence: Sequence, length: int) -> None:
        if sequence.first_version == self.policy_version:
            self._places.remember(sequence, length)


def _how(sequences: list[Sequence]) -> RowSampling:
    settings = [sequence.request.sampling for sequence in sequences]
    return RowSampling(
        temperature=np.array([one.temperature for one in settings]),
        top_p=np.array([one.top_p for one in settings]),
        top_k=np.array([min(one.top_k, 1 << 62) for one in settings]),
        seed=np.array([one.seed & SEED_MASK for one in settings], np.uint64),
        position=np.array([sequence.length for sequence in sequences], np.uint64),
        allowed=tuple(sequence.allowed() for sequence in sequences),
        tell_masks=tuple(one.tell_masks for one in settings),
    )


def max_context_of(config: PolicyServerConfig, decoder: Decoder) -> int:
    """Tokens of prompt and completion together."""
    return min(config.max_context, config.kv_tokens, decoder.max_positions)
