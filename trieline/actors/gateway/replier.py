"""From what is asked to what is replied: chat to tokens, tokens to the policy, its tokens to a message."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec
import numpy as np

from trieline.actors.errors import ChatTemplateError, ToolGrammarError
from trieline.actors.gateway.asked import Asked
from trieline.actors.gateway.errors import BadRequestError, ContextLengthError, DeadlineError, UpstreamError
from trieline.actors.gateway.exchange import Exchange
from trieline.actors.gateway.history import History, Place
from trieline.actors.gateway.lineage import lineage
from trieline.actors.policy import Policy
from trieline.actors.tool_grammars import json_reply
from trieline.common.arrays import Int32
from trieline.common.message import Message, Tool
from trieline.envs.tool_calls import MOST_CALLS
from trieline.wire.errors import PeerTimeoutError, WireError
from trieline.wire.messages import Completion, Sampling
from trieline.wire.policy_client import RefusedError

T = TypeVar("T", int, float)

CALL_ID_LETTERS = 9
"""Of letters and digits: some templates insist on it."""


class GatewayRenderer(Protocol):
    """Chats that others write, to tokens and back: `chat.ChatRenderer` is one."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a reply."""

    def chat_tokens(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Int32:
        """[P] a whole chat, up to where the reply begins."""

    def turn_tokens(self, turn: int, said: Sequence[Message], *, last_token: int) -> Int32:
        """[C] between the `turn`-th reply and the next."""

    @property
    def call_ends(self) -> tuple[str, ...]:
        """What stands after a call, where the model's notation has an end of it."""

    def forced_call(self, tools: Sequence[Tool], name: str | None, *, most: int) -> str:
        """The grammar of replies that call. Raises ToolGrammarError."""

    def decode(self, token_ids: Int32) -> str:
        """A reply's text."""

    def reply_message(self, text: str, tools: Sequence[Tool] = ()) -> Message:
        """What it says and calls."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingLimits:
    """What holds for all requests of a session."""

    max_tokens: int
    max_context: int
    temperature: float
    top_p: float
    top_k: int
    fixed: bool
    """These, whatever a request asks for."""
    timeout_s: float
    max_exchanges: int
    """Replies."""

    def chosen(self, asked: T | None, own: T) -> T:
        """What holds of what a request asks for and of one's own."""
        return own if self.fixed or asked is None else asked


@dataclass(frozen=True, kw_only=True, slots=True)
class Replier:
    """Asks the policy."""

    renderer: GatewayRenderer
    policy: Policy

    async def reply(
        self,
        history: History,
        asked: Asked,
        limits: SamplingLimits,
        *,
        request_id: str,
        task: str,
        seed: int,
        body: bytes,
    ) -> Exchange:
        """The exchange that this request makes. Its number and the ids of its calls are the session's to set.

        Raises:
            BadRequestError: it can't be shown to the model, or has no room. UpstreamError, DeadlineError: the
                policy server did not reply.
        """
        began = time.monotonic()
        place = history.place(asked.messages, asked.tools)
        side = asked.declared.purpose == "side"
        known = lineage(history, place, asked.declared, side=side)
        context = self._context(history, place)
        prompt = tokens_up_to(history, place.parent, context)
        sampling = self._sampling(asked, limits, len(prompt), seed)
        completion = await self._sample(prompt, sampling, limits.timeout_s, task)
        return Exchange(
            number=len(history.exchanges),
            request_id=request_id,
            parent=place.parent,
            said=place.said,
            tools=place.tools if place.parent < 0 else (),
            context=context,
            completion=completion,
            reply=self._message(completion, asked),
            body=body,
            cause=known.cause,
            leads=known.leads,
            side=side,
            declared=asked.declared,
            seconds=time.monotonic() - began,
        )

    def prompt(self, history: History, asked: Asked) -> Int32:
        """[P] what the model would be asked. Raises BadRequestError."""
        place = history.place(asked.messages, asked.tools)
        return tokens_up_to(history, place.parent, self._context(history, place))

    def _context(self, history: History, place: Place) -> Int32:
        try:
            if place.parent < 0:
                return self.renderer.chat_tokens(place.said, place.tools)
            last = int(history.exchanges[place.parent].completion.token_ids[-1])
            return self.renderer.turn_tokens(history.replies(place.parent), place.said, last_token=last)
        except ChatTemplateError as error:
            msg = f"messages: expected a chat that the model's template takes: {error}"
            raise BadRequestError(msg, param="messages") from error

    def _sampling(self, asked: Asked, limits: SamplingLimits, prompt_tokens: int, seed: int) -> Sampling:
        room = limits.max_context - prompt_tokens
        if room < 1:
            raise ContextLengthError(found=prompt_tokens, most=limits.max_context - 1)

        top_p, top_k = limits.chosen(asked.top_p, limits.top_p), limits.chosen(asked.top_k, limits.top_k)
        return Sampling(
            max_tokens=min(room, limits.max_tokens, asked.max_tokens or limits.max_tokens),
            temperature=limits.chosen(asked.temperature, limits.temperature),
            top_p=top_p,
            top_k=top_k,
            # Only so are the probabilities those that it was sampled with.
            tell_masks=top_p < 1 or top_k > 0,
            **self._grammar(asked),
            stop_ids=self.renderer.stop_ids,
            stop=self._stops(asked),
            seed=seed if asked.seed is None else asked.seed % 2**63,
        )

    def _stops(self, asked: Asked) -> tuple[str, ...]:
        one_call = asked.tools and not asked.parallel_calls and asked.tool_choice == "auto"
        return (*asked.stop, *(self.renderer.call_ends if one_call else ()))

    def _grammar(self, asked: Asked) -> dict[str, str]:
        """What a reply has to be, as settings of sampling. Raises BadRequestError: none can be made so."""
        try:
            if asked.tool_choice not in ("auto", "none"):
                _, _, name = asked.tool_choice.partition(":")
                most = MOST_CALLS if asked.parallel_calls else 1
                return {"lark": self.renderer.forced_call(asked.tools, name or None, most=most)}
            if asked.response_schema is not None:
                return {"json_schema": json_reply(asked.response_schema)}
        except ToolGrammarError as error:
            raise BadRequestError(str(error), param="tool_choice") from error
        return {}

    async def _sample(self, prompt: Int32, sampling: Sampling, timeout_s: float, task: str) -> Completion:
        try:
            return await self.policy.generate(prompt, sampling, timeout_s=timeout_s, task=task)
        except PeerTimeoutError as error:
            raise DeadlineError(str(error)) from error
        except RefusedError as error:
            raise BadRequestError(str(error)) from error
        except WireError as error:
            raise UpstreamError(str(error)) from error

    def _message(self, completion: Completion, asked: Asked) -> Message:
        text = self.renderer.decode(completion.token_ids)
        if completion.stop in asked.stop:
            text = text[: text.find(completion.stop)]
        return self.renderer.reply_message(text, () if asked.tool_choice == "none" else asked.tools)


def tokens_up_to(history: History, parent: int, context: Int32) -> Int32:
    """[T] the whole window up to and with the reply of `parent`, then `context`."""
    runs = [
        run
        for number in history.chain(parent)
        for run in (history.exchanges[number].context, history.exchanges[number].completion.token_ids)
    ]
    return np.concatenate([*runs, context]).astype(np.int32, copy=False)


def length_up_to(history: History, number: int) -> int:
    """Tokens of the window up to and with the reply of this exchange."""
    window = [history.exchanges[n] for n in history.chain(number)]
    return sum(len(exchange.context) + len(exchange.completion.token_ids) for exchange in window)


def with_call_ids(reply: Message, first: int) -> Message:
    """The reply, its calls with ids that no others of the session have. `first`: calls before it."""
    calls = [
        msgspec.structs.replace(call, id=f"c{first + number:0{CALL_ID_LETTERS - 1}d}")
        for number, call in enumerate(reply.tool_calls)
    ]
    return msgspec.structs.replace(reply, tool_calls=tuple(calls)) if calls else reply
