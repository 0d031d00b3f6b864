"""What an episode needs of a policy. `wire.generate_link.PolicyClient` is one, a script in a test another."""

import hashlib
from typing import Protocol

from trieline.common.arrays import Int32
from trieline.wire.messages import Completion, Sampling


class Policy(Protocol):
    """Writes one reply at a time."""

    async def generate(self, prompt: Int32, sampling: Sampling, *, timeout_s: float) -> Completion:
        """Sample a completion of `prompt` [P].

        Raises:
            WireError: there was no reply within `timeout_s`, or the request was refused for good.
        """


def derived_seed(*parts: int | str) -> int:
    """A seed in [0, 2**63) that depends on all parts and is the same on every machine."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
