"""What differs between engines of others: how they are started, asked, and given weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.foreign.http_link import HttpLink
from trieline.wire.messages import Completion, GenerateRequest, Sampling


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """What is asked of an engine."""

    folder: Path
    """Of the model: configuration, tokenizer, first weights."""
    dtype: str
    """Compute precision: `bfloat16` or `float32`."""
    vocab_size: int
    config: PolicyServerConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Abilities:
    """What a running engine says of itself."""

    max_context: int
    """Tokens of prompt and completion together."""
    max_logprobs: int
    """Of the largest log-probabilities at one place that may be asked for."""
    takes_seeds: bool = True
    """Whether a request may have a seed of its own. If not, its draw is not repeatable."""
    max_mask: int = 0
    """Of the tokens that top-k and top-p left at one place, as many can be told. 0: it does not tell them."""


def cuts(sampling: Sampling) -> bool:
    """Whether `top_k` or `top_p` leave tokens out. Of a greedy draw they leave out none."""
    return sampling.temperature > 0 and (sampling.top_k > 0 or sampling.top_p < 1)


class Dialect(Protocol):
    """One kind of engine. All calls in one event loop."""

    kind: str
    """Its name for people."""
    keeps_requests: bool
    """Whether requests go on under new weights, and it says which token came from which. If not, they are
    asked again after it has them."""

    has_unix_sockets: bool
    """Whether it can listen at a path, where nobody else gets in."""

    def command(self, *, port: int, socket: str) -> list[str]:
        """What starts it. It listens at the path of a Unix `socket`, or at the `port` of loopback."""
        ...

    def environment(self) -> dict[str, str]:
        """More variables for it."""
        ...

    async def look(self, link: HttpLink) -> Abilities:
        """What it can do. Raises EngineError if it was started so that it can't be trained with."""
        ...

    def refusal(self, sampling: Sampling, abilities: Abilities) -> str:
        """Why it can't sample in this way; "": it can."""
        ...

    async def generate(
        self, link: HttpLink, request: GenerateRequest, labels: "Labels", abilities: Abilities
    ) -> Completion:
        """Ask for one completion.

        Raises:
            InvalidRequestError: it says that the request can't be answered.
            EngineError: there is no answer, or not such a one.
        """
        ...

    async def load(self, link: HttpLink, folder: Path, label: str) -> None:
        """Have it read the weights in `folder`, and name them `label`. Raises EngineError."""
        ...


class Labels:
    """Names of versions as this policy server gives them to its engine: nobody else's are taken for them."""

    def __init__(self, start: str) -> None:
        """`start`: unique to this start of the process."""
        self._start = start

    def of(self, policy_version: int) -> str:
        return f"{self._start}-{policy_version}"

    def version(self, label: str) -> int | None:
        """None: it is none of ours."""
        start, _, number = label.rpartition("-")
        return int(number) if start == self._start and number.isdecimal() and len(number) < 10 else None
