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
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trieline.actors.errors import ChatTemplateError

Message = dict[str, str]


class ChatTemplate:
    """Renders messages to text."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self._special_tokens = dict(special_tokens)
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            msg = f"expected a chat template that compiles, got: {error}"
            raise ChatTemplateError(msg) from error

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """The conversation as one text.

        Raises:
            ChatTemplateError: the template refuses these messages (some know no system role), or fails.
        """
        try:
            return self._template.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except (
            jinja2.TemplateError,
            TypeError,
            ValueError,
            ArithmeticError,
            LookupError,
            AttributeError,
        ) as error:
            msg = f"the chat template failed on the roles {[m['role'] for m in messages]}: {error}"
            raise ChatTemplateError(msg) from error


def read_chat_template(folder: Path) -> str:
    """The folder's template: `chat_template.jinja`, else `chat_template` of its tokenizer config.

    Raises:
        ChatTemplateError: there is none.
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):  # several named ones
        template = {t["name"]: t["template"] for t in template}.get("default")
    if not isinstance(template, str):
        msg = (
            f"expected a chat template in {folder} (chat_template.jinja, tokenizer_config.json), got none: "
            "take the instruct variant of the model, or put a template there"
        )
        raise ChatTemplateError(msg)
    return template


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
        value = json.loads(path.read_text(encoding="utf-8"))
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


def _environment() -> ImmutableSandboxedEnvironment:
    env = ImmutableSandboxedEnvironment(
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
