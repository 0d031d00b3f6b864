"""The contract between the policy server and whatever samples for it: tokens in, tokens out.

Ours on the CPU is one engine; another may stand in another process or on another machine.
"""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from trieline.wire.messages import Completion, GenerateRequest

Ticket = tuple[bytes, int]
"""Who asked (the peer's address) and the request's number there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A request's answer."""

    ticket: Ticket
    completion: Completion
    """With log-probability and version of every token; entropies that the engine does not know are NaN."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnginePlace:
    """Where an engine of others is, and where it writes."""

    number: int = 0
    """Of this policy server among those of `links.generate`."""
    log_file: Path | None = None
    """Of all that it prints; None: where this process prints, too."""
    gives_up: Callable[[], str] = str
    """Asked while it comes up: why not to wait any longer; "": go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """A request that gets no answer here."""

    ticket: Ticket
    kind: Literal["invalid", "failed"]
    """`invalid`: nor anywhere else; `failed`: another server may answer it."""
    reason: str


class Engine(Protocol):
    """Works on many requests at once; `step` moves all of them on. Called from one thread."""

    admits: bool
    """False: requests that don't run yet wait, and those that run go on. An engine that can't tell them apart
    lets all run."""

    @property
    def policy_version(self) -> int:
        """Of the weights that the next token is sampled with."""
        ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_context(self) -> int:
        """Tokens of prompt and completion together."""
        ...

    @property
    def dtype(self) -> str:
        """Compute precision."""
        ...

    @property
    def name(self) -> str:
        """`own`, or the kind of the engine of others."""
        ...

    @property
    def entropies(self) -> Literal["exact", "estimated", "unknown"]:
        """What it says of them with its tokens."""
        ...

    @property
    def running(self) -> int:
        """Requests that tokens are sampled for."""
        ...

    @property
    def waiting(self) -> int:
        """Requests that were submitted and don't run yet."""
        ...

    @property
    def tokens_generated(self) -> int:
        """Since the start."""
        ...

    def check(self, request: GenerateRequest) -> None:
        """Raise InvalidRequestError, which says the bound that it breaks, if it can never be answered."""
        ...

    def submit(self, peer: bytes, request: GenerateRequest) -> None:
        """Take a request in that `check` has let pass.

        It is answered by `step`, told by `take_refused`, or given back by `drain`.
        """
        ...

    def cancel(self, ticket: Ticket) -> None:
        """Nobody waits for this answer any more: its place is free at once. Unknown: does nothing."""
        ...

    def step(self) -> list[Finished]:
        """Sample some tokens; the requests that are finished by them. Nothing to do: does nothing.

        Raises:
            EngineGoneError: there is no engine any more.
        """
        ...

    def take_refused(self) -> list[Refused]:
        """Requests that turned out to get no answer, since this was last asked."""
        ...

    def load(self, weights: Path, policy_version: int) -> "Future[None] | None":
        """Change the weights to those of a safetensors file, between two steps; no request is lost.

        What has been sampled stays. A request that has sampled nothing is answered by the new weights alone.

        Returns:
            None: they are in. Else they are on their way: whatever the engine is asked meanwhile, it answers,
            and this ends when they are in or did not fit. One load at a time.

        Raises (at once, or when what was returned ends):
            CheckpointError: the file does not fit the model; the message names the tensor. The old ones stay.
            EngineError: the engine can't be reached, or did not take them. They may be given to it again.
        """
        ...

    def close(self) -> None:
        """End what it has started. Idempotent."""
        ...

    def drain(self) -> list[Ticket]:
        """Forget every request; whose those were."""
        ...
