"""How one model is told of tools, calls them and hears what they gave.

Found out from its chat template, by showing it a call: a template that shows tools, calls in a notation that
is known here, and answers, is used as it is. Any other model is told of tools in its system prompt, in the
notation of `trieline.envs.tool_calls`, and hears answers as messages of the user.
"""

import json
import logging
import re
from collections.abc import Sequence
from functools import cached_property
from itertools import groupby, takewhile
from typing import Any

import msgspec

from trieline.actors.errors import ChatTemplateError
from trieline.actors.shown_chat import FILLER, SENTINEL, THINKING, ShownChat, offered
from trieline.actors.tool_formats import FORMATS, HERMES, ToolFormat
from trieline.actors.tool_grammars import CALL_MARKS, forced_call
from trieline.common.message import Message, Tool, ToolCall, user_message
from trieline.envs.tool_calls import CLOSES, MOST_CALLS, OPENS, answer, call_id, read_calls, write_calls

log = logging.getLogger(__name__)

_HOW = (
    "You may call these functions:\n{tools}\n\nTo call one, write a line for each call and nothing else:\n"
    f'{OPENS}{{{{"name": "...", "arguments": {{{{...}}}}}}}}{CLOSES}'
)
_ANSWERED = "<tool_response>\n{content}\n</tool_response>"
_RESPONSE = re.compile("<(?=/?tool_response>)")
"""The marks of answers, ours and in the templates of Hermes and Qwen, which are no special tokens."""
_ASKED = user_message(FILLER)
_PROBE = ToolCall(name="look_up", arguments={"word": "tree"}, id=call_id(0))


class ToolSpeech:
    """Tools in the chats of one model. What it costs to find out is paid when the first tools come."""

    def __init__(self, chat: ShownChat) -> None:
        self._chat = chat

    @cached_property
    def format(self) -> ToolFormat | None:
        """The model's own; None: it is told in words."""
        try:
            if (own := self._format_shown()) is not None:
                return own
        except ChatTemplateError as error:
            log.debug("%s: %s", self._chat.folder, error)
        log.warning(
            "%s: its chat template shows no tools in a known way: the system prompt tells of them",
            self._chat.folder,
        )
        return None

    @cached_property
    def _opened(self) -> str:
        """What the start of a reply opens the thinking with, so that its text does not; or nothing."""
        start = self._chat.tokens.plain(self._chat.render([_ASKED], prompt=True)).rstrip()
        return next((opens for opens in THINKING if start.endswith(opens)), "")

    def opening(
        self, messages: Sequence[Message], tools: Sequence[Tool]
    ) -> tuple[list[Message], Sequence[Tool]]:
        """The first messages and the tools, as the template takes them."""
        if not tools or self.format is not None:
            return [*messages], tools
        return told_in_words(messages, tools), ()

    def chat(self, messages: Sequence[Message]) -> list[Message]:
        """Messages, replies among them or not, as the template takes them.

        An answer can't end itself and begin another.
        """
        if all(message.role != "tool" and not message.tool_calls for message in messages):
            return [*messages]
        if self.format is not None:
            return [*map(_unmarked, messages)]
        found: list[Message] = []
        for has_answers, run in groupby(messages, key=lambda m: m.role not in ("assistant", "system")):
            said = [*run]
            if has_answers and any(message.role == "tool" for message in said):
                found.append(heard_as_user(said))
            else:
                found += map(_calls_in_words, said)
        return found

    def message(self, text: str, tools: Sequence[Tool]) -> Message:
        """What a model wrote, as a message. With a broken call in it, it is all text, as it was written."""
        opens = next((opens for opens in THINKING if text.lstrip().startswith(opens)), self._opened)
        thought, said = _apart(text, self._opened)
        reasoning = thought.strip().removeprefix(opens).removesuffix(THINKING.get(opens, "")).strip()
        if not tools:
            return Message(role="assistant", content=said, reasoning=reasoning)
        written = (self.format or HERMES).read(said, tools)
        if written.broken or not written.calls or len(written.calls) > MOST_CALLS:
            return Message(role="assistant", content=said, reasoning=reasoning)
        return Message(
            role="assistant", content=written.content, reasoning=reasoning, tool_calls=written.calls
        )

    def action(self, text: str, tools: Sequence[Tool]) -> str:
        """What a model wrote, in the notation of environments. What it only thought of calling is no call."""
        if not tools:
            return text
        thought, said = _apart(text, self._opened)
        if self.format is None or self.format.name == "hermes":
            return thought + said
        own = self.format.read(said, tools)
        broken = [f"{OPENS}{text}{CLOSES}" for text in own.broken]
        return thought + "\n".join([write_calls(own.content, own.calls), *broken]).strip()

    @property
    def call_ends(self) -> tuple[str, ...]:
        """What stands after a call, where the notation has an end of it."""
        return (CLOSES,) if (self.format or HERMES).name in ("hermes", "tagged") else ()

    def forced_call(self, tools: Sequence[Tool], name: str | None, *, most: int) -> str:
        """The grammar of replies that call one of `tools`, or the one of this `name`."""
        known = {text: self._chat.tokens.token_id(text) for text in CALL_MARKS}
        marks = {text: token_id for text, token_id in known.items() if token_id is not None}
        return forced_call((self.format or HERMES).name, tools, name, most=most, marks=marks)

    def reply(self, action: str, tools: Sequence[Tool]) -> Message:
        """An action that the model has to say, as a message for its template."""
        taken = read_calls(action) if tools and self.format is not None else None
        if taken is None or not taken.calls or taken.problems:
            return Message(role="assistant", content=action)
        return Message(role="assistant", content=taken.content, tool_calls=taken.calls)

    def after_reply(self, earlier: Sequence[Message], messages: Sequence[Message]) -> str:
        """The marked text between a reply to `earlier` and the next one, `messages` in it."""
        if messages[0].role == "tool":
            answers = takewhile(lambda message: message.role == "tool", messages)
            calls = tuple(ToolCall(name=m.name, id=m.tool_call_id) for m in answers)
            try:
                return self._chat.after_calls(
                    [*earlier, Message(role="assistant", tool_calls=calls)], messages
                )
            except ChatTemplateError as error:
                log.debug("%s: after calls: %s", self._chat.folder, error)
        return self._chat.after_reply([*earlier, Message(role="assistant", content=SENTINEL), *messages])

    def _format_shown(self) -> ToolFormat | None:
        tools = [offered(_PROBE.name)]
        if _PROBE.name not in self._chat.render([_ASKED], tools, prompt=True):
            return None
        answered = Message(**answer(_PROBE, SENTINEL))  # type: ignore[arg-type]
        if SENTINEL not in self.after_reply([_ASKED], [answered]):
            return None
        shown = self._chat.reply([_ASKED, Message(role="assistant", tool_calls=(_PROBE,))], tools).text
        tokens = self._chat.tokens
        text = tokens.decode(tokens.token_ids(shown), leave_out=self._chat.stop_ids)
        wanted = [(_PROBE.name, _PROBE.arguments)]
        return next((f for f in FORMATS if _read(f, text, tools) == wanted), None)


def told_in_words(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """The first messages of a chat, the tools and how to call them in its system message."""
    how = _HOW.format(tools="\n".join(map(signature, tools)))
    if messages[0].role != "system":
        return [Message(role="system", content=how), *messages]
    told = msgspec.structs.replace(messages[0], content=f"{messages[0].content}\n\n{how}")
    return [told, *messages[1:]]


def heard_as_user(messages: Sequence[Message]) -> Message:
    """Answers of tools and what the user says, as one message of the user."""
    told = [
        _ANSWERED.format(content=message.content) if message.role == "tool" else message.content
        for message in map(_unmarked, messages)
    ]
    return user_message("\n".join(told))


def _calls_in_words(message: Message) -> Message:
    if not message.tool_calls:
        return message
    said = write_calls(message.content, message.tool_calls)
    return Message(role="assistant", content=said, reasoning=message.reasoning)


def _unmarked(message: Message) -> Message:
    if message.role != "tool":
        return message
    return msgspec.structs.replace(message, content=_RESPONSE.sub("< ", message.content))


def signature(tool: Tool) -> str:
    """A function in one line: `name(a: string, b: integer = ...): what it does`."""
    function = tool["function"]
    parameters = function.get("parameters", {})
    required = parameters.get("required", [])
    arguments = [
        f"{name}: {_type_said(schema)}" + ("" if name in required else " = ...")
        for name, schema in parameters.get("properties", {}).items()
    ]
    described = str(function.get("description", "")).strip()
    return f"{function['name']}({', '.join(arguments)})" + (f": {described}" if described else "")


def _type_said(schema: Any) -> str:
    """Short where a schema is simple, else its JSON; what a value means stands beside it."""
    if not isinstance(schema, dict):
        return json.dumps(schema, ensure_ascii=False)
    described = str(schema.get("description", "")).strip()
    rest = {key: value for key, value in schema.items() if key not in ("description", "title", "default")}
    if set(rest) <= {"type", "enum"} and isinstance(rest.get("enum"), list):
        said = " | ".join(json.dumps(value, ensure_ascii=False) for value in rest["enum"])
    elif set(rest) == {"type"} and isinstance(rest["type"], str):
        said = rest["type"]
    else:
        said = json.dumps(rest, ensure_ascii=False)
    return f"{said} ({described})" if described else said


def said_calls(text: str) -> str:
    """A reply in our own notation, where what it only thought of calling is no call."""
    return "".join(_apart(text, ""))


def _apart(text: str, opened: str) -> tuple[str, str]:
    """What a reply thought, without calls, and what it says: nothing where it was cut while it thought.

    `opened` is what the start of the reply opens the thinking with, empty if it does not.
    """
    opens = next((opens for opens in THINKING if text.lstrip().startswith(opens)), opened)
    if not opens:
        return "", text
    thought, closes, said = text.partition(THINKING[opens])
    return thought.replace(OPENS, "< tool_call>") + closes, said


def _read(form: ToolFormat, text: str, tools: Sequence[Tool]) -> list[tuple[str, dict[str, Any]]]:
    return [(call.name, call.arguments) for call in form.read(text, tools).calls]
