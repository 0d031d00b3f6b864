"""The chat template of a model folder, compiled as Hugging Face's libraries compile it, without them.

A template is a program that came with the model: it runs in jinja's sandbox.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from trieline.actors.errors import ChatTemplateError
from trieline.common.message import Message, Tool

DEFAULT, WITH_TOOLS = "default", "tool_use"
"""The names by which a folder with several templates tells them apart."""

_HARMLESS = (str, LoopContext, Namespace)


class ChatTemplate:
    """Renders messages to text."""

    def __init__(
        self, sources: Mapping[str, str], special_tokens: Mapping[str, str], kwargs: Mapping[str, Any]
    ) -> None:
        """`kwargs` are the user's arguments to the template (`enable_thinking`, ...)."""
        self.sources = dict(sources)
        self._arguments = {**special_tokens, **kwargs}
        try:
            self._templates = {name: _environment().from_string(text) for name, text in sources.items()}
        except jinja2.TemplateError as error:
            msg = f"expected a chat template that compiles, got: {error}"
            raise ChatTemplateError(msg) from error

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), *, add_generation_prompt: bool
    ) -> str:
        """The conversation as one text.

        Raises:
            ChatTemplateError: the template refuses these messages (some know no system role), or fails.
        """
        name = WITH_TOOLS if tools and WITH_TOOLS in self._templates else DEFAULT
        try:
            return self._templates[name].render(
                messages=[_for_template(message) for message in messages],
                tools=list(tools) or None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._arguments,
            )
        except (
            jinja2.TemplateError,
            TypeError,
            ValueError,
            ArithmeticError,
            LookupError,
            AttributeError,
        ) as error:
            msg = f"the chat template failed on the roles {[m.role for m in messages]}: {error}"
            raise ChatTemplateError(msg) from error


class _Arguments(dict[str, Any]):
    """Arguments of a call: an object for templates that look into it, JSON for those that print it.

    Others would get Python's own spelling, or fail.
    """

    def __str__(self) -> str:
        return _tojson(self)

    def __add__(self, other: str) -> str:
        return str(self) + other

    def __radd__(self, other: str) -> str:
        return other + str(self)


def _for_template(message: Message) -> dict[str, Any]:
    """The names that templates know, each only where it says something."""
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        fields |= dict.fromkeys(("reasoning_content", "reasoning", "thinking"), message.reasoning)
    if message.tool_calls:
        fields["tool_calls"] = [
            {
                "type": "function",
                "function": {"name": call.name, "arguments": _Arguments(call.arguments)},
                **({"id": call.id} if call.id else {}),
            }
            for call in message.tool_calls
        ]
    for name in ("tool_call_id", "name"):
        if value := getattr(message, name):
            fields[name] = value
    return fields


def read_chat_templates(folder: Path) -> dict[str, str]:
    """The folder's templates by name: `chat_template.jinja`, else `chat_template` of its tokenizer config.

    Raises:
        ChatTemplateError: there is none by the name of `DEFAULT`.
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        found = {DEFAULT: path.read_text(encoding="utf-8")}
    else:
        template = read_json(folder / "tokenizer_config.json").get("chat_template")
        if isinstance(template, str):
            found = {DEFAULT: template}
        else:  # several named ones, or none
            found = {t["name"]: t["template"] for t in template or []}
    for other in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found.setdefault(other.stem, other.read_text(encoding="utf-8"))
    if DEFAULT not in found:
        msg = (
            f"expected a chat template in {folder} (chat_template.jinja, tokenizer_config.json), got none: "
            "take the instruct variant of the model, or put a template there"
        )
        raise ChatTemplateError(msg)
    return {name: text for name, text in found.items() if name in (DEFAULT, WITH_TOOLS)}


def read_special_tokens(folder: Path) -> dict[str, str]:
    """`bos_token`, `eos_token`, ... to their text, as templates use them."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for key, value in read_json(folder / name).items():
            text = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(text, str):
                found[key] = text
    return found


def read_json(path: Path) -> dict[str, Any]:
    """An optional JSON object; empty if the file is not there.

    Raises:
        ChatTemplateError: it is there and no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        msg = f"expected JSON in {path}, got: {error}"
        raise ChatTemplateError(msg) from error
    if not isinstance(value, dict):
        msg = f"expected a JSON object in {path}, got a {type(value).__name__}"
        raise ChatTemplateError(msg)
    return value


class _GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks replies for other trainers; here it is its content."""

    tags = {"generation"}  # noqa: RUF012 - jinja declares it so

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with a short way for the objects that templates ask most, several times a message.

    They are neither internals of Python nor changed by their methods, which is what the long way finds out.
    """

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Jinja's question, and its answer."""
        if type(obj) in _HARMLESS:
            return not attr.startswith("_")
        return super().is_safe_attribute(obj, attr, value)


def _environment() -> ImmutableSandboxedEnvironment:
    env = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = _tojson
    env.globals["raise_exception"] = _raise_exception
    env.globals["strftime_now"] = _strftime_now
    return env


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    # Jinja's own filter escapes HTML, which would change what the model reads.
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
