"""Which turns of a tree's rollouts are played again from the middle.

Every turn after the first is a candidate with a rank: a random number, or the mean entropy of its reply. The
`branches` highest of the whole tree are kept, each with a copy of its environment from just before the reply
took effect. So `branches` copies live at once, beside those just being made, and none is made for a turn that
does not rank.
"""

import heapq
import logging
import math
from typing import Literal

from trieline.actors.errors import ActorError, ForkUnsupportedError
from trieline.actors.rollout import Origin
from trieline.actors.session import Session
from trieline.common.seeds import derived_seed
from trieline.wire.messages import Completion

log = logging.getLogger(__name__)


class ForkPoints:
    """The turns of one tree that will be forked. Ranks do not depend on which rollout was faster."""

    def __init__(
        self,
        env_id: str,
        *,
        ranking: Literal["random", "entropy"],
        branches: int,
        seed: int,
        unforkable: set[str],
    ) -> None:
        """`unforkable` holds the environments known to have no copies; shared by the trees of a process."""
        self._env_id = env_id
        self._unforkable = unforkable
        self._ranking = ranking
        self._branches = branches
        self._seed = seed
        self._kept: list[tuple[float, int, int, Session]] = []  # a heap, the lowest rank first

    async def offer(self, origin: Origin, completion: Completion, session: Session) -> None:
        """A reply was sampled at `origin`, and `session` is still as it was before it.

        Raises:
            EnvFailure: copying the environment failed, and with it the episode.
            ActorError: turns are ranked by entropy, and the policy server does not tell it.
        """
        place = (self._rank(origin, completion), origin.rollout, origin.turn)
        if self._env_id in self._unforkable or not self._ranks(place):
            return
        try:
            copy = await session.fork()
        except ForkUnsupportedError as why:
            self._say_unforkable(str(why))
            return
        if not self._ranks(place):  # others were faster
            copy.close()
            return
        heapq.heappush(self._kept, (*place, copy))
        if len(self._kept) > self._branches:
            heapq.heappop(self._kept)[-1].close()

    def take(self) -> list[tuple[Origin, Session]]:
        """The turns to fork and their environments, which now belong to the caller; in order of the turns."""
        kept, self._kept = self._kept, []
        kept.sort(key=lambda point: point[1:3])
        return [(Origin(rollout=rollout, turn=turn), session) for _, rollout, turn, session in kept]

    def close(self) -> None:
        """Give up what is kept. Idempotent."""
        for _, session in self.take():
            session.close()

    def _ranks(self, place: tuple[float, int, int]) -> bool:
        return len(self._kept) < self._branches or place > self._kept[0][:3]

    def _rank(self, origin: Origin, completion: Completion) -> float:
        if self._ranking == "entropy":
            rank = float(completion.entropies.mean())
            if math.isnan(rank):
                msg = (
                    f"{self._env_id}: expected the entropies of sampled tokens with branching = 'entropy', "
                    "got unknown ones; this policy server needs branching = 'random'"
                )
                raise ActorError(msg)
            return rank
        return float(derived_seed(self._seed, "fork", origin.rollout, origin.turn))

    def _say_unforkable(self, why: str) -> None:
        if self._env_id not in self._unforkable:
            self._unforkable.add(self._env_id)
            log.warning(
                "%s can't be copied in the middle of an episode (%s): it is branched at its start only",
                self._env_id,
                why,
            )
