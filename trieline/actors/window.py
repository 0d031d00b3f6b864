"""What the policy sees of an episode: the prompt, then its replies and what they were answered.

When the next reply has no room any more, the oldest part of it is left out and the episode goes on in a new
window. Replies stay token for token as they were sampled; only messages are rendered anew.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np

from trieline.common.arrays import Int32

TURNS_LEFT_OUT = "[{count} earlier turns left out]\n\n"
OUTPUT_LEFT_OUT = "[{count} characters left out]"
AIM = 0.5
"""Share of the room that a new window fills at most, where it can: a window for a few turns only is not worth
the tokens that are read again for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """A reply and what came back for it."""

    reply: Int32
    """[K] as sampled."""
    answer: Int32
    """[C] the end of the reply, the message, the start of the next reply."""
    message: str
    whole: bool = True
    """Its message is shown."""


RenderAnswer = Callable[[int, str, int], Int32]
"""Number of replies before it, message, last token of the reply: the tokens of an answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """One context window, up to where the next reply begins."""

    prompt: Int32
    """[P]"""
    exchanges: tuple[Exchange, ...] = ()
    number: int = 0
    """Of the windows before it in the episode."""
    left_out: int = 0
    """Turns that it does not show."""

    def __len__(self) -> int:
        return len(self.prompt) + sum(len(e.reply) + len(e.answer) for e in self.exchanges)

    def tokens(self) -> Int32:
        """[T] the whole sequence."""
        return np.concatenate([self.prompt, self.after_prompt()])

    def after_prompt(self) -> Int32:
        """[T - P]"""
        runs = [run for e in self.exchanges for run in (e.reply, e.answer)]
        return np.concatenate(runs) if runs else self.prompt[:0]

    def followed_by(self, exchange: Exchange) -> Self:
        """The window one turn later."""
        return replace(self, exchanges=(*self.exchanges, exchange))

    def compacted(self, how: Literal["turns", "outputs"], *, room: int, render: RenderAnswer) -> Self | None:
        """The next window, with what is oldest left out: of at most `AIM` of `room` tokens, if it can be.

        None if even the smallest one does not fit. The first message and the newest exchange stay whole.
        """
        smallest = None
        for count in range(1, len(self.exchanges)):
            shorter = self._without_turns(count, render) if how == "turns" else self._muted(count, render)
            if smallest is None or len(shorter) < len(smallest):
                smallest = shorter
            if len(smallest) <= AIM * room:
                break
        if smallest is None or len(smallest) > room or len(smallest) >= len(self):
            return None
        return smallest

    def _without_turns(self, count: int, render: RenderAnswer) -> Self:
        *kept, newest = self.exchanges[count:]
        left_out = self.left_out + count
        message = TURNS_LEFT_OUT.format(count=left_out) + newest.message
        answer = render(len(kept) + 1, message, int(newest.reply[-1]))
        return replace(
            self,
            # The note is of this window: a later one has its own.
            exchanges=(*kept, replace(newest, answer=answer)),
            number=self.number + 1,
            left_out=left_out,
        )

    def _muted(self, count: int, render: RenderAnswer) -> Self:
        exchanges = list(self.exchanges)
        for turn, exchange in enumerate(exchanges[:count]):
            message = OUTPUT_LEFT_OUT.format(count=len(exchange.message))
            if exchange.whole and len(message) < len(exchange.message):
                answer = render(turn + 1, message, int(exchange.reply[-1]))
                exchanges[turn] = replace(exchange, answer=answer, whole=False)
        return replace(self, exchanges=tuple(exchanges), number=self.number + 1)
