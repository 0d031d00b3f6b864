"""A policy that says what a script tells it, in tokens of a real chat format."""

import asyncio
from collections.abc import Callable

import numpy as np

from trieline.actors.chat import ChatRenderer
from trieline.common.arrays import Int32
from trieline.wire.messages import Completion, Sampling

VERSION = 3
LOGPROB = -0.5
ENTROPY = 0.25

Script = Callable[[str, Sampling], str]
"""Text of the whole prompt, and how to sample, to the reply."""


class ScriptedPolicy:
    """Replies at once, with the end of turn if it fits into `max_tokens`."""

    def __init__(
        self, renderer: ChatRenderer, script: Script, *, entropy: Callable[[str], float] | None = None
    ) -> None:
        self._renderer = renderer
        self._script = script
        self._entropy = entropy or (lambda prompt: ENTROPY)
        self.prompts: list[Int32] = []
        self.samplings: list[Sampling] = []
        self.running = 0
        self.most_running = 0

    async def generate(
        self, prompt: Int32, sampling: Sampling, *, timeout_s: float, task: str = ""
    ) -> Completion:
        self.prompts.append(prompt)
        self.samplings.append(sampling)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        text = self._renderer.decode(prompt)
        tokens = self._renderer.reply_tokens(self._script(text, sampling))[: sampling.max_tokens]
        return completion(tokens, entropy=self._entropy(text))


def completion(tokens: Int32, *, entropy: float = ENTROPY, request_id: int = 0) -> Completion:
    size = len(tokens)
    return Completion(
        request_id=request_id,
        token_ids=tokens,
        logprobs=np.full(size, LOGPROB, dtype=np.float32),
        entropies=np.full(size, entropy, dtype=np.float32),
        policy_versions=np.full(size, VERSION, dtype=np.int32),
        finish_reason="stop",
    )
