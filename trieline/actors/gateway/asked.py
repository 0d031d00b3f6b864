"""What an agent asks for and what it is told, whichever API it speaks.

Each API has a module that reads its bodies into an `Asked` and writes a `Replied` in its own form. Nothing
else of the gateway knows which one an agent speaks.
"""

from typing import Annotated, Any, Literal

import msgspec

from trieline.common.message import Message, Tool
from trieline.common.numbers import Count, Positive


class Declared(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a harness says of where a request belongs. "": it does not say."""

    session: str = ""
    """The harness's own name for the whole conversation, its helpers included."""
    thread: str = ""
    """Of the agent in it: the main one or a sub-agent."""
    parent_thread: str = ""
    """The agent that sent this one."""
    window: str = ""
    """The context window of the thread."""
    purpose: Literal["", "compaction", "side"] = ""
    """`compaction`: the reply is the summary with which the next window begins. `side`: not the agent's own
    work, such as a title for a list of conversations."""


class Asked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request for one reply. None: the request leaves it to the server."""

    model: str
    messages: tuple[Message, ...]
    """At least one. Without what harnesses add and move (`harness_marks`)."""
    tools: tuple[Tool, ...] = ()
    """Functions that the agent runs, `{"type": "function", "function": {"name", "description",
    "parameters"}}`; tools that the API's own server would run are refused or left out by name."""
    tool_choice: str = "auto"
    """`auto`, `none`, `required`, or `function:NAME`."""
    parallel_calls: bool = True
    """May one reply make several calls?"""
    response_schema: dict[str, Any] | None = None
    """The JSON schema that the reply has to follow. `{}`: any JSON object."""
    max_tokens: Positive | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Count | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    stream_usage: bool = False
    """Chat completions: one more chunk with the usage at the end."""
    declared: Declared = Declared()
    tool_forms: dict[str, str] = {}
    """Of tools that the API calls in a way of its own, by their names here: `custom` (text for arguments,
    here the argument `input`) or `namespace:SPACE:NAME`. Nothing but the API's own module needs it."""


class Replied(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One reply."""

    request_id: str
    """Unique, of letters, digits and `_`; the APIs put their own prefixes before it."""
    created: int
    """Seconds since 1970."""
    model: str
    message: Message
    """Role assistant. Every call has an id that no other call of the session has."""
    finish_reason: Literal["stop", "length", "tool_calls"]
    stop: str = ""
    """The stop string that ended it; it is not in the message."""
    prompt_tokens: Count
    cached_tokens: Count = 0
    """Of the prompt: those of turns that the session had before."""
    completion_tokens: Count
