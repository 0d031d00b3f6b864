"""What a session is made of: what was said and replied, in the order in which it happened.

These records are all that is kept of a session, on the disk too, and a session is what they make of it:
whoever reads them again has the session as it was.
"""

from typing import Literal

import msgspec

from trieline.actors.gateway.asked import Declared
from trieline.common.arrays import Int32
from trieline.common.message import Message, Tool
from trieline.common.numbers import Count
from trieline.wire.messages import Assignment, Completion


class Lead(msgspec.Struct, frozen=True, kw_only=True):
    """The end of an earlier exchange took effect in this one, as text."""

    source: Count
    """Number of the earlier exchange."""
    kind: Literal["continues", "returns"]


class Exchange(msgspec.Struct, frozen=True, kw_only=True, tag="exchange"):
    """One request and its reply."""

    number: Count
    """In the session, from 0."""
    request_id: str
    """As in `Replied`."""
    parent: int = -1
    """The exchange whose reply this one goes on from, token for token. -1: it begins a context window."""
    said: tuple[Message, ...]
    """Since the reply of `parent`, or the whole chat."""
    tools: tuple[Tool, ...] = ()
    """Of a window, at its first exchange."""
    context: Int32
    """[C] tokens between the reply of `parent`, or nothing, and this reply."""
    completion: Completion
    reply: Message
    """As the agent was told."""
    body: bytes = b""
    """Digest of the request, by which one that is sent again is known."""
    cause: str = ""
    """Why it does not simply go on: one of `wire.tree.FORK_CAUSES`."""
    leads: tuple[Lead, ...] = ()
    side: bool = False
    """Not the agent's own work, as its harness says: recorded, not trained on."""
    declared: Declared = Declared()
    seconds: float = 0.0
    """From the request to its reply."""


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag="opened"):
    """A session begins."""

    session_id: str
    key: str
    """By which requests name it."""
    env_id: str = ""
    task_id: str = ""
    level: int = 0
    metadata: dict[str, str] = {}
    unix_s: float


class Rewarded(msgspec.Struct, frozen=True, kw_only=True, tag="rewarded"):
    """A reward came in."""

    reward: float
    exchange: int = -1
    """For the reply of that one. -1: for the last one there is when the session ends."""


class Closed(msgspec.Struct, frozen=True, kw_only=True, tag="closed"):
    """The session is over."""

    cause: str = ""
    """`SCORED`, or the cause for which it is broken."""
    reason: str = ""
    """For people: why it is broken."""
    terminated: bool = True
    """False: a limit cut it."""
    score: str = ""
    """For people: what explains the reward."""
    reward: float | None = None
    """Of the session, where it came with its end: one event, so that it is there once or not at all."""


class Seated(msgspec.Struct, frozen=True, kw_only=True, tag="seated"):
    """The session is one rollout of what a learner asked for."""

    assignment: Assignment
    run_id: str
    """Of the run that asked."""


Event = Opened | Seated | Exchange | Rewarded | Closed
