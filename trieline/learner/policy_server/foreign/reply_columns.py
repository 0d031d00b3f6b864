"""From what an engine said of a completion's tokens to the columns of a `Completion`, checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np

from trieline.common.arrays import Float32
from trieline.learner.policy_server.batching.completion_masks import CompletionMasks, MaskColumns
from trieline.learner.policy_server.errors import EngineAwayError, EngineError
from trieline.learner.policy_server.foreign.dialect import Labels, cuts
from trieline.learner.policy_server.foreign.entropy import NOTHING_LEFT, estimated_entropies
from trieline.wire.messages import Completion, GenerateRequest
from trieline.wire.token_masks import runs_of
from trieline.wire.tree import ROUNDING, UNKNOWN_ENTROPY

IMPOSSIBLE = -1000.0
"""Nats. Engines write a number below it for what can't be sampled, where JSON has no infinity."""


class VersionSpan(msgspec.Struct):
    """The tokens from `start` up to `end` of a completion came from the weights of this name."""

    version: Annotated[str, msgspec.Meta(max_length=200)]
    start: int
    end: int


VersionSpans = Annotated[list[VersionSpan], msgspec.Meta(max_length=10_000)]


@dataclass(frozen=True, kw_only=True, slots=True)
class SaidTokens:
    """K tokens of one completion."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    """[K] of the sampled tokens."""
    tops: Sequence[Sequence[tuple[int, float]]]
    """[K] the largest log-probabilities of each place, with their tokens."""
    policy_versions: Sequence[int]


def completion_of(
    request: GenerateRequest,
    said: SaidTokens,
    *,
    name: str,
    vocab_size: int,
    width: int,
    stop: str,
    stopped: bool,
) -> Completion:
    """The completion, if it is one.

    Args:
        request: what was asked.
        said: the answer.
        name: of the engine, for errors.
        vocab_size: ids are below it.
        width: how many of the very largest are surely among `said.tops` at every place.
        stop: the stop string that ended it.
        stopped: whether a stop string or id ended it.

    Raises:
        EngineError: the answer breaks the contract; says in what.
    """
    count, most = len(said.token_ids), request.sampling.max_tokens
    lengths = [len(said.logprobs), len(said.tops), len(said.policy_versions)]
    if not 1 <= count <= most or lengths != [count] * 3:
        msg = f"{name}: expected 1 to {most} tokens and as many log-probabilities and versions, got {count} "
        raise EngineError(msg + f"and {lengths}")
    token_ids = np.asarray(said.token_ids, np.int64)
    if token_ids.min() < 0 or token_ids.max() >= vocab_size:
        msg = f"{name}: expected tokens in [0, {vocab_size}), got {token_ids.min()}..{token_ids.max()}"
        raise EngineError(msg)
    logprobs = np.asarray(said.logprobs, np.float64)
    if not (logprobs.min() > IMPOSSIBLE and logprobs.max() <= ROUNDING):
        msg = f"{name}: expected log-probabilities of sampled tokens, got {logprobs.min()}..{logprobs.max()}"
        raise EngineError(msg)
    if stop not in ("", *request.sampling.stop):
        msg = f"{name}: expected a completion that {request.sampling.stop} ended, got one by {stop[:80]!r}"
        raise EngineError(msg)
    entropies = _entropies(said.tops, width, vocab_size)
    tells = request.sampling.tell_masks and cuts(request.sampling)
    return Completion(
        request_id=request.request_id,
        token_ids=token_ids.astype(np.int32),
        logprobs=np.minimum(logprobs, 0.0).astype(np.float32),
        entropies=np.full(count, UNKNOWN_ENTROPY, np.float32) if entropies is None else entropies,
        policy_versions=np.asarray(said.policy_versions, np.int32),
        finish_reason="stop" if stopped else "length",
        stop=stop,
        entropies_estimated=entropies is not None,
        **(_masks(said, name, vocab_size).columns() if tells else MaskColumns()),
    )


def _entropies(tops: Sequence[Sequence[tuple[int, float]]], width: int, vocab_size: int) -> Float32 | None:
    if width < 1:
        return None
    largest = np.array([sorted((p for _, p in top), reverse=True)[:width] for top in tops], np.float64)
    return estimated_entropies(largest, vocab_size)


def _masks(said: SaidTokens, name: str, vocab_size: int) -> CompletionMasks:
    """What `top_k` and `top_p` left: the tokens that have a probability, which sum to 1 once all are told."""
    masks = CompletionMasks()
    for top in said.tops:
        left = {token_id for token_id, logprob in top if logprob > IMPOSSIBLE}
        total = sum(np.exp(logprob) for _, logprob in top if logprob > IMPOSSIBLE)
        if abs(total - 1.0) > len(left) * NOTHING_LEFT or min(left) < 0 or max(left) >= vocab_size:
            msg = f"{name}: expected all tokens that could be sampled, got {len(left)} with {total:.6f} of 1"
            raise EngineError(msg)
        allowed = np.zeros(vocab_size, np.bool_)
        allowed[list(left)] = True
        masks.add(runs_of(allowed))
    return masks


def versions_of(name: str, spans: Sequence[VersionSpan], count: int, labels: Labels) -> list[int]:
    """[K] the version of each of `count` tokens.

    Raises:
        EngineAwayError: they came from weights that this policy server did not give it.
        EngineError: they are not told for each token.
    """
    versions: list[int] = []
    for span in spans:
        version = labels.version(span.version)
        if version is None:
            msg = f"{name} samples with weights {span.version[:80]!r}, which were not given to it from here"
            raise EngineAwayError(msg)
        if span.start != len(versions) or not span.start < span.end <= count:
            break
        versions += [version] * (span.end - span.start)
    if len(versions) != count:
        msg = f"{name}: expected the version of each of {count} tokens, got {len(versions)}"
        raise EngineError(msg)
    return versions
