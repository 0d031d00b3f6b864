"""What continuous batching needs of a device: places for keys and values, a forward, and a draw."""

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from trieline.learner.policy_server.batching.prefix_cache import Tokens
from trieline.learner.policy_server.batching.sampling import RowSampling, Sampled
from trieline.learner.policy_server.batching.sequence import Sequence
from trieline.learner.policy_server.decoders.decoder import Decoder


class Places(Protocol):
    """Where running requests have their keys and values, and what is kept of others for later ones."""

    def __iter__(self) -> Iterator[Sequence]:
        """The running requests."""
        ...

    def __len__(self) -> int: ...

    def matched(self, tokens: Tokens) -> int:
        """How many of the first of these are kept from before."""
        ...

    def place(self, sequence: Sequence, policy_version: int) -> bool:
        """Let a request run, with what is kept of its prompt; False: there is no room for it now."""
        ...

    def remember(self, sequence: Sequence, length: int) -> None:
        """Keep its first `length` tokens for others that begin with them. All have keys and values."""
        ...

    def remove(self, sequence: Sequence) -> None:
        """The request has left."""
        ...

    def forget(self) -> None:
        """Drop what is kept for later ones."""
        ...

    def clear(self) -> None:
        """Drop all requests, too."""
        ...


Planned = list[tuple[Sequence, int]]
"""Which requests take part in a step, and how many of their pending tokens: those with one first."""


class Backend(Protocol):
    """A model somewhere, and what its requests need there."""

    @property
    def decoder(self) -> Decoder: ...

    @property
    def places(self) -> Places: ...

    def forward(self, planned: Planned) -> Tensor:
        """Read the planned tokens: logits [S, V] of those that have no pending token left, in their order."""
        ...

    def sample(self, logits_SV: Tensor, how: RowSampling) -> Sampled:
        """Draw one token a row.

        Raises:
            NonFiniteLogitsError: a row has NaN or infinity.
        """
        ...

    def warm_up(self) -> None:
        """After the first step."""
        ...

    def rest(self) -> None:
        """There is nothing to do for now."""
        ...
