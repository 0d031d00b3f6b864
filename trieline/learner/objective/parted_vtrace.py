"""V-trace of a pack that is run in parts."""

import numpy as np

from trieline.learner.batch.pack import Pack
from trieline.learner.batch.pack_parts import PackPart
from trieline.learner.batch.segments import Segment
from trieline.learner.objective.pack_loss import PackOutputs, ValueTargets, column_targets, start_vtrace
from trieline.learner.objective_config import ObjectiveConfig


class PartedVTrace:
    """V-trace of a pack of one group, part by part, each after the parts that hang below it."""

    def __init__(self, pack: Pack, config: ObjectiveConfig) -> None:
        assert len(pack.traces) == 1, "only a single group can exceed the budget"
        self._trace = pack.traces[0]
        # The group's own trie has the same sequences, and so the same order.
        assert self._trace.episodes.trie.num_tokens == pack.trie.num_tokens
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
