"""What an episode needs of a policy. `wire.generate_link.PolicyClient` is one, a script in a test another."""

from typing import Protocol

from trieline.common.arrays import Int32
from trieline.wire.messages import Completion, Sampling


class Policy(Protocol):
    """Writes one reply at a time."""

    async def generate(
        self, prompt: Int32, sampling: Sampling, *, timeout_s: float, task: str = ""
    ) -> Completion:
        """Sample a completion of `prompt` [P]. Requests of one `task` begin alike.

        Raises:
            WireError: there was no reply within `timeout_s`, or the request was refused for good.
        """
