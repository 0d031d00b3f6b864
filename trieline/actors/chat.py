"""Chats to tokens and back. The one place where an environment's text becomes tokens.

Invariant: what the policy sampled is never re-tokenised. A later turn is rendered with a placeholder in place
of the reply, and only the text after the placeholder becomes tokens.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from trieline.actors.errors import ChatTemplateError
from trieline.actors.shown_chat import FILLER, SENTINEL, ShownChat
from trieline.actors.tool_speech import ToolSpeech
from trieline.actors.written_chat import Runs, token_runs, written_paths
from trieline.common.arrays import Int32
from trieline.common.message import Message, Said, Tool, messages_of, user_message

log = logging.getLogger(__name__)

DEFAULT_SYSTEM_PROMPT = "You are a helpful assistant."
_THINKING = f"<think>\n{FILLER}\n</think>\n\n{FILLER}"
# Templates take a text between these for the result of a call and not for a question.
_TRIED = (FILLER, f"<tool_response>\n{FILLER}\n</tool_response>")


class ChatRenderer:
    """The chat format of one model folder: tokenizer, chat template, stop tokens. No torch."""

    def __init__(
        self,
        folder: Path,
        *,
        system_prompt: str = DEFAULT_SYSTEM_PROMPT,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Read the folder. `template_kwargs` go to the chat template (`model.template_kwargs`).

        Raises:
            ChatTemplateError: no tokenizer.json, no chat template, or one that can't hold a conversation.
        """
        self._chat = ShownChat(folder, template_kwargs or {})
        self._tokens = self._chat.tokens
        self._tools = ToolSpeech(self._chat)
        self._system_prompt = system_prompt
        self._system_role = self._knows_system_role()
        self._as_first: dict[int, bool] = {}
        self.vocab_size: int = self._tokens.vocab_size
        self.end_of_turn_id = self._chat.end_of_turn_id
        """The special token that closes a reply; None if the template closes it with plain text."""
        self.stop_ids = self._chat.stop_ids
        """Tokens that end a reply, the end of turn first."""
        if not self.stop_ids:
            log.warning(
                "%s names no token that ends a reply: every reply will run to its length limit", folder
            )
        if why := self._rewrites_history():
            log.warning(
                "the chat template of %s %s; earlier replies stay in the context as sampled",
                folder,
                why,
            )

    def prompt_tokens(self, said: Said, tools: Sequence[Tool] = ()) -> Int32:
        """Tokens [P] before the first reply: system prompt, first messages, start of a reply.

        A system message at the beginning of `said` stands in place of the configured one. `tools` may be
        called: the model is told of them through its template, or in words.
        """
        messages, shown_tools = self._opening(said, tools)
        return self._tokens.token_ids(self._chat.render(messages, shown_tools, prompt=True))

    def turn_tokens(self, turn: int, said: Said, *, last_token: int) -> Int32:
        """Tokens [C] between two replies: end of the previous, what is said, start of the next.

        `turn` >= 1 counts the replies so far. `last_token` is the last one of the previous reply: where the
        policy sampled the end of turn itself, it is not repeated.
        """
        after = self._after_reply(1 if self._is_as_first(turn) else turn, said)
        return self._tokens.token_ids_after(last_token, self._chat.after_end(after, last_token))

    def chat_tokens(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Int32:
        """Tokens [P] of a chat with replies in it that others wrote, as far as the start of the next reply.

        The configured system prompt is not added. Messages that the template does not take where they stand
        (a system message later on, two of one side in turn) are said as the user's, and as one.

        Raises:
            ChatTemplateError: the template shows them in no way.
        """
        opening, shown_tools = self._tools.opening(messages, tools)
        said = self._tools.chat(opening)
        if said[0].role == "system" and not self._system_role and len(said) > 1 and said[1].role == "user":
            said = _without_system(said)
        try:
            shown = self._chat.render(said, shown_tools, prompt=True)
        except ChatTemplateError:
            shown = self._chat.render(alternating(said), shown_tools, prompt=True)
        return self._tokens.token_ids(shown)

    def reply_message(self, text: str, tools: Sequence[Tool] = ()) -> Message:
        """What an agent is told of a reply's text: what the model thought, says, and calls of `tools`."""
        return self._tools.message(text, tools)

    @property
    def call_ends(self) -> tuple[str, ...]:
        """What stands after a call, where the model's notation has an end of it."""
        return self._tools.call_ends

    def forced_call(self, tools: Sequence[Tool], name: str | None, *, most: int) -> str:
        """The grammar (`Sampling.lark`) of replies that call one of `tools`, or the one of this `name`.

        Raises:
            ToolGrammarError: this model's notation has none, or there is no such tool.
        """
        return self._tools.forced_call(tools, name, most=most)

    def reply_tokens(self, action: str, tools: Sequence[Tool] = ()) -> Int32:
        """Tokens [K] of a reply that a demonstrator wrote, its end of turn included.

        Calls of `tools` in it, in the notation of `trieline.envs.tool_calls`, are written as the model does.

        Raises:
            ChatTemplateError: the template shows it in no way that a policy could write.
        """
        messages, shown_tools = self._opening(FILLER, tools)
        reply = self._chat.reply([*messages, self._tools.reply(action, tools)], shown_tools)
        runs = token_runs(self._tokens, [(reply.before, False), (reply.text, True)])
        return np.concatenate([np.zeros(0, np.int32), *(tokens for tokens, is_reply in runs if is_reply)])

    def conversation_paths(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        trained: Sequence[bool] | None = None,
    ) -> list[Runs]:
        """A written conversation as runs of tokens, in turn context and replies that are trained on.

        Every reply stands as in sampling: after the start of a reply, closed by the end of turn. Usually
        there is one path, which ends with the last reply that is trained on; its tokens are those of the
        whole text at once. Where the template shows an earlier reply otherwise later on, a path ends with
        that reply, and the next one has it as context, as it is shown then.

        Args:
            messages: the first one is not a reply.
            tools: that may be called.
            trained: for each message, whether it is trained on; None: every reply.

        Raises:
            ChatTemplateError: the template refuses the messages, leaves one out or leaves out what it says.
        """
        chosen = [m.role == "assistant" for m in messages] if trained is None else list(trained)
        if messages[0].role == "system" and not self._system_role and messages[1].role == "user":
            messages, chosen = _without_system(messages), chosen[1:]
        return written_paths(self._chat, messages, tools, chosen)

    def decode(self, token_ids: Int32) -> str:
        """The text of a reply, without the tokens that end it. Other special tokens are spelled out."""
        return self._tokens.decode(token_ids, leave_out=self.stop_ids)

    def action(self, token_ids: Int32, tools: Sequence[Tool] = ()) -> str:
        """What an environment gets of a reply: its text, calls of `tools` in the notation of environments."""
        return self._tools.action(self.decode(token_ids), tools)

    def _after_reply(self, turn: int, said: Said) -> str:
        # The text of earlier turns is thrown away: short stand-ins do.
        earlier, _ = self._opening(FILLER)
        for _ in range(turn - 1):
            earlier += [_assistant(FILLER), user_message(FILLER)]
        heard = self._tools.chat(messages_of(said))
        try:
            return self._tools.after_reply(earlier, heard)
        except ChatTemplateError:
            if (tamed := alternating(heard)) == heard:
                raise
            return self._tools.after_reply(earlier, tamed)

    def _is_as_first(self, turn: int) -> bool:
        """Whether a turn is shown as the first one is, so that no earlier ones need to stand before it.

        As a rule it is, but a template is a program: each turn is tried once, with short texts.
        """
        if turn not in self._as_first:
            try:
                self._as_first[turn] = all(
                    self._after_reply(turn, text) == self._after_reply(1, text) for text in _TRIED
                )
            except ChatTemplateError:
                self._as_first[turn] = False
        return self._as_first[turn]

    def _opening(self, said: Said, tools: Sequence[Tool] = ()) -> tuple[list[Message], Sequence[Tool]]:
        messages = messages_of(said)
        if self._system_prompt and messages[0].role != "system":
            messages = (Message(role="system", content=self._system_prompt), *messages)
        opening, shown_tools = self._tools.opening(messages, tools)
        if opening[0].role == "system" and not self._system_role:
            opening = _without_system(opening)
        return opening, shown_tools

    def _knows_system_role(self) -> bool:
        """Some templates refuse a system message; others leave it out, which is theirs to decide."""
        try:
            shown = self._chat.render(
                [Message(role="system", content=SENTINEL), user_message(FILLER)], prompt=True
            )
        except ChatTemplateError:
            return False
        if self._system_prompt and SENTINEL not in shown:
            log.warning("the chat template of %s leaves the system prompt out", self._chat.folder)
        return True

    def _rewrites_history(self) -> str:
        """How the template treats earlier replies differently from the newest one; empty if it doesn't."""
        opening = self._opening(FILLER)[0]
        for reply, why in ((FILLER, "rewrites earlier turns"), (_THINKING, "drops earlier thinking")):
            messages = [*opening, _assistant(reply)]
            try:
                shown = self._chat.reply(messages).shown
            except ChatTemplateError:
                continue  # one that opens the thinking takes no reply without it
            if not self._chat.render([*messages, user_message(FILLER)], prompt=True).startswith(shown):
                return why
        return ""


def _without_system(messages: Sequence[Message]) -> list[Message]:
    """For templates that know no system role: the first message of the user begins with what it says."""
    system, first, *rest = messages
    return [user_message(f"{system.content}\n\n{first.content}"), *rest]


def alternating(messages: Sequence[Message]) -> list[Message]:
    """For templates that insist on it: one system message, first; then no two of one side after another."""
    found: list[Message] = []
    for number, message in enumerate(messages):
        if message.role == "system" and number:
            message = user_message(message.content)
        last = found[-1] if found else None
        if last is not None and last.role == message.role == "user":
            found[-1] = user_message(f"{last.content}\n\n{message.content}")
        elif last is not None and last.role == message.role == "assistant":
            found[-1] = msgspec.structs.replace(
                last,
                content=f"{last.content}\n\n{message.content}".strip(),
                tool_calls=(*last.tool_calls, *message.tool_calls),
            )
        else:
            found.append(message)
    return found


def _assistant(content: str) -> Message:
    return Message(role="assistant", content=content)
