"""Episodes with a chat model behind HTTP, of which nobody here knows the tokens.

The chat is spelled in the bytes of its text (UTF-8), with a token before each message that says whose it is
and one after each reply. A reply is read from the tokens of its chat as any policy's is, so episodes are
played, cut and kept as trees as all others are. Such a tree says of a reply what is known: log-probability 0
at version 0, as of a written one, and no entropy. Its token ids are no model's, and the header of its journal
says so (`journal_header.BYTES_TOKENIZER`): nothing is trained on them by mistake.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import msgspec
import numpy as np

from trieline.actors.demonstrations import written_completion
from trieline.actors.tool_speech import heard_as_user, said_calls, told_in_words
from trieline.common.arrays import Int32
from trieline.common.message import Message, Said, Tool, messages_of
from trieline.wire.chat_completions import ChatEndpoint
from trieline.wire.journal_header import BYTES_VOCABULARY
from trieline.wire.messages import Completion, Sampling
from trieline.wire.tree import UNKNOWN_ENTROPY

SYSTEM, USER, ASSISTANT, END = range(256, BYTES_VOCABULARY)
ROLES: Mapping[int, str] = {SYSTEM: "system", USER: "user", ASSISTANT: "assistant"}
_MARKS: Mapping[str, int] = {role: mark for mark, role in ROLES.items()}
BYTES_PER_TOKEN = 4
"""Of English and code, about: what a limit of tokens comes to where only bytes are known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ByteChat:
    """The renderer of such chats. Of tools it tells in the system message: requests name none."""

    system_prompt: str = ""
    """Empty: no system message."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return (END,)

    def prompt_tokens(self, said: Said, tools: Sequence[Tool] = ()) -> Int32:
        messages = messages_of(said)
        if self.system_prompt and messages[0].role != "system":
            messages = (Message(role="system", content=self.system_prompt), *messages)
        opening = told_in_words(messages, tools) if tools else messages
        return _tokens([*_spelling(opening), ASSISTANT])

    def turn_tokens(self, turn: int, said: Said, *, last_token: int) -> Int32:
        messages = messages_of(said)
        heard = [heard_as_user(messages)] if any(m.role == "tool" for m in messages) else messages
        closed = [] if last_token == END else [END]
        return _tokens([*closed, *_spelling(heard), ASSISTANT])

    def action(self, token_ids: Int32, tools: Sequence[Tool] = ()) -> str:
        text = bytes(token for token in token_ids.tolist() if token < SYSTEM).decode("utf-8", "replace")
        return said_calls(text) if tools else text


def chat_of(tokens: Int32) -> list[dict[str, str]]:
    """The chat that `ByteChat` spelled, without the reply that is to come."""
    found = [{"role": role, "content": text} for role, text in spelled_messages(tokens)]
    return found[:-1]


def spelled_messages(tokens: Int32) -> Iterator[tuple[str, str]]:
    """Role and text of each message that `ByteChat` spelled, replies among them."""
    starts = np.flatnonzero((tokens >= SYSTEM) & (tokens != END))
    for start, part in zip(starts, np.split(tokens, starts[1:]), strict=True):
        text = part[part < SYSTEM].astype(np.uint8).tobytes().decode("utf-8", "replace")
        yield ROLES[int(tokens[start])], text


def _spelling(messages: Sequence[Message]) -> list[int]:
    return [
        number
        for message in messages
        for number in (_MARKS[message.role], *message.content.encode("utf-8", "replace"))
    ]


def _tokens(numbers: list[int]) -> Int32:
    return np.asarray(numbers, dtype=np.int32)


@dataclass(kw_only=True)
class EndpointPolicy:
    """The model behind an endpoint, for one episode."""

    endpoint: ChatEndpoint
    threads: Executor
    """Requests block: one waits in each."""
    prompt_tokens: int | None = field(default=0, init=False)
    """Of all requests so far, as the endpoint counts them; None: it does not say."""
    completion_tokens: int | None = field(default=0, init=False)

    async def generate(
        self, prompt: Int32, sampling: Sampling, *, timeout_s: float, task: str = ""
    ) -> Completion:
        """As in `Policy`. `top_k`, `stop_ids` and `stop` are not the protocol's, or not needed, and not sent.

        Raises:
            ContextFullError, WireError: as `ChatEndpoint.ask`.
        """
        fields: dict[str, int | float] = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed % 2**31,
        }
        messages = chat_of(prompt)
        reply = await asyncio.get_running_loop().run_in_executor(
            self.threads, lambda: self.endpoint.ask(messages, sampling=fields, timeout_s=timeout_s)
        )
        self.prompt_tokens = _sum(self.prompt_tokens, reply.prompt_tokens)
        self.completion_tokens = _sum(self.completion_tokens, reply.completion_tokens)
        spelled = list(reply.text.encode())
        # A tree has no reply without tokens: of an empty one that was cut there is the end all the same.
        tokens = _tokens([*spelled, END] if reply.whole or not spelled else spelled)
        unknown = np.full(len(tokens), UNKNOWN_ENTROPY, dtype=np.float32)
        return msgspec.structs.replace(written_completion(tokens), entropies=unknown)


def _sum(so_far: int | None, more: int | None) -> int | None:
    return None if so_far is None or more is None else so_far + more


def bytes_shown(token_ids: Sequence[int]) -> str:
    """For people: the text, with `<role>` where a message begins."""
    return "".join(_spelled(token_ids))


def _spelled(token_ids: Sequence[int]) -> Iterator[str]:
    run = bytearray()
    for token in token_ids:
        if token < SYSTEM:
            run.append(token)
            continue
        yield run.decode("utf-8", "replace")
        run.clear()
        yield f"<{ROLES.get(token, 'end')}>"
    yield run.decode("utf-8", "replace")
