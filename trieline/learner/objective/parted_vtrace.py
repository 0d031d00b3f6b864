"""V-trace of a pack that is run in parts."""

from dataclasses import fields
from typing import Protocol

import numpy as np

from trieline.common.arrays import Float64
from trieline.learner.batch.pack import Pack
from trieline.learner.batch.pack_parts import PackPart
from trieline.learner.batch.segments import Segment
from trieline.learner.objective.pack_loss import (
    PackOutputs,
    ValueTargets,
    column_targets,
    start_vtrace,
    value_targets,
)
from trieline.learner.objective_config import ObjectiveConfig


class PartTargets(Protocol):
    """Tells the targets of each part of a pack, in the order of the backward."""

    def take(self, segment: Segment, part: PackPart, outputs: PackOutputs) -> ValueTargets:
        """The targets of the columns of the part that `segment` computes."""
        ...


class WholeVTrace:
    """V-trace of a pack whose values and log-probabilities are known before its backward.

    What an edge leads to may hang anywhere: no order of the segments has it before where it comes from.
    """

    def __init__(
        self, pack: Pack, values: Float64, target_logprobs: Float64, config: ObjectiveConfig
    ) -> None:
        self._targets = value_targets(pack, values, target_logprobs, config)

    def take(self, segment: Segment, part: PackPart, outputs: PackOutputs) -> ValueTargets:
        """Those of the part's columns."""
        columns = {f.name: getattr(self._targets, f.name)[part.columns] for f in fields(ValueTargets)}
        return ValueTargets(**columns)


class PartedVTrace:
    """V-trace of a pack of one group, part by part, each after the parts that hang below it."""

    def __init__(self, pack: Pack, config: ObjectiveConfig) -> None:
        assert len(pack.traces) == 1, "only a single group can exceed the budget"
        self._trace = pack.traces[0]
        # The group's own trie has the same sequences, and so the same order.
        assert not self._trace.episodes.on_tree
        assert self._trace.episodes.num_states == pack.trie.num_tokens
        self._sweep = start_vtrace(self._trace, config)
        # The tokens after each state, all states in order.
        self._followers = np.argsort(pack.trie.predecessor, kind="stable")
        self._states = pack.trie.predecessor[self._followers]
        self._logprobs = np.zeros(pack.trie.num_tokens)

    def take(self, segment: Segment, part: PackPart, outputs: PackOutputs) -> ValueTargets:
        """Go on to the states of `segment`; the targets of the columns of its part."""
        assert outputs.values is not None
        logprobs = outputs.logprobs.detach().double().numpy()
        self._logprobs[part.pack.target_tokens] = logprobs
        first, stop = np.searchsorted(self._states, [segment.tokens, segment.tokens + 1])
        followers = np.concatenate([self._followers[a:b] for a, b in zip(first, stop, strict=True)])
        values = outputs.values.detach().double().numpy()
        self._sweep.take(segment.tokens, values, followers, self._logprobs[followers])
        return column_targets(self._sweep, self._trace, part.columns)
