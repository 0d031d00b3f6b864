"""Sessions of one task become one tree.

Everything that was sampled is in it once. A chat that was said by several is there once as far as its tokens
are equal. A reply from which nothing goes on ends a sequence; all sequences of a session lead, along edges,
to the one with which it ended, so that they are one episode with one return. What belongs to no sequence
(`Exchange.side`) is recorded and never trained on.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from trieline.actors.gateway.session import Session
from trieline.actors.tree_builder import NO_PROMPT, TreeBuilder
from trieline.common.arrays import Int32
from trieline.common.prefix import common_prefix
from trieline.wire.tree import SCORED, TrajectoryTree

_Parent = tuple[int, int]
"""Session and exchange; (-1, -1): the root."""
_ROOT: _Parent = (-1, -1)


def session_tree(
    sessions: Sequence[Session],
    *,
    env_id: str,
    task_id: str,
    level: int = 0,
    info: Mapping[str, str] | None = None,
) -> TrajectoryTree:
    """One tree, one episode for each session. One without a reply is a broken leaf on what all begin with."""
    growth = _Growth(sessions)
    for number, session in enumerate(sessions):
        growth.add(number, session)
    return growth.builder.build(env_id=env_id, task_id=task_id, level=level, info=info or {})


class _Growth:
    """The nodes so far."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self.builder = TreeBuilder()
        self._cuts = _cuts(sessions)
        self._pieces: dict[tuple[int, bytes], int] = {}
        self._sampled: dict[_Parent, int] = {}
        opening = [e.context for s in sessions for e in s.exchanges if e.parent < 0]
        shared = common_prefix(*opening) if opening else 0
        start = opening[0][:shared] if shared else NO_PROMPT
        self._root = self.builder.add_context(-1, start, fork_cause="")
        self._skipped = shared

    def add(self, number: int, session: Session) -> None:
        """A session, all of it."""
        for exchange in session.exchanges:
            at = (number, exchange.number)
            parent = (number, exchange.parent) if exchange.parent >= 0 else _ROOT
            cause = exchange.cause or ("rollout" if parent == _ROOT else "")
            node = self._context(at, parent, exchange.context, cause)
            completion = exchange.completion
            self._sampled[at] = self.builder.add_sampled(node, completion, fork_cause=cause or "branch")
        ends = self._leaves(number, session)
        self._rewards(number, session, ends)
        self._edges(number, session, ends)

    def _context(self, at: _Parent, parent: _Parent, context: Int32, cause: str) -> int:
        node = self._root if parent == _ROOT else self._sampled[parent]
        start = self._skipped if parent == _ROOT else 0
        for stop in [*(cut for cut in self._cuts[at] if cut > start), len(context)]:
            if stop == start:
                continue
            piece = context[start:stop]
            key = (node, piece.tobytes())
            if key not in self._pieces:
                self._pieces[key] = self.builder.add_context(node, piece, fork_cause=cause or "branch")
            node, start = self._pieces[key], stop
        return node

    def _leaves(self, number: int, session: Session) -> list[int]:
        """Add them. Returns the exchanges that end a sequence."""
        closed = session.closed
        cause = SCORED if closed is None else closed.cause
        tips = session.history.tips()
        for tip in tips:
            last = tip == tips[-1]
            terminated = last and closed is not None and closed.terminated
            self.builder.add_leaf(self._sampled[number, tip], terminated=terminated, cause=cause)
        if not tips:
            self.builder.add_leaf(self._root, terminated=False, cause=cause or "environment")
        return tips

    def _rewards(self, number: int, session: Session, ends: Sequence[int]) -> None:
        for rewarded in session.rewards:
            exchange = rewarded.exchange if rewarded.exchange >= 0 else next(iter(ends[-1:]), -1)
            if exchange >= 0:
                self.builder.add_reward(self._sampled[number, exchange], rewarded.reward)

    def _edges(self, number: int, session: Session, ends: Sequence[int]) -> None:
        led = session.history.led
        for exchange in session.exchanges:
            for lead in exchange.leads:
                self._lead(number, lead.source, exchange.number, lead.kind)
        # What an agent asked on the side of its main line worked through the program that it is.
        for end, later in pairwise(ends):
            if end not in led:
                self._lead(number, end, _first_after(session, end, later), "returns")

    def _lead(self, number: int, source: int, target: int, kind: str) -> None:
        # To the reply, which is the exchange's own: the tokens before it may be those of others too.
        self.builder.add_edge(self._sampled[number, source], self._sampled[number, target], kind=kind)


def _first_after(session: Session, end: int, later: int) -> int:
    """Where a reply that nothing is known to go on from takes effect: the next request that does."""
    chain = session.history.chain(later)
    return next(number for number in chain if number > end)


def _cuts(sessions: Sequence[Session]) -> dict[_Parent, list[int]]:
    """For each exchange where its context parts from another one after the same reply, ascending."""
    together: dict[_Parent, list[tuple[_Parent, Int32]]] = {}
    for number, session in enumerate(sessions):
        for exchange in session.exchanges:
            parent = (number, exchange.parent) if exchange.parent >= 0 else _ROOT
            together.setdefault(parent, []).append(((number, exchange.number), exchange.context))
    found: dict[_Parent, list[int]] = {}
    for contexts in together.values():
        contexts.sort(key=lambda one: one[1].astype(">u4").tobytes())
        shared = np.array([common_prefix(a[1], b[1]) for a, b in pairwise(contexts)], dtype=np.int64)
        for place, (at, _) in enumerate(contexts):
            # In this order two have in common what all neighbours between them have.
            before = np.minimum.accumulate(shared[:place][::-1])
            after = np.minimum.accumulate(shared[place:])
            found[at] = np.unique(np.concatenate([before, after])).tolist()
    return found
