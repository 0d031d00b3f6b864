"""Where text went on that no token carries: a summary into the next window, a sub-agent's end to its sender.

What a harness declares (`Declared`) is believed. Where it declares nothing, what counts is that a reply's
text is found again in what is said later.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trieline.actors.gateway.asked import Declared
from trieline.actors.gateway.exchange import Exchange, Lead
from trieline.actors.gateway.history import History, Place
from trieline.common.message import Message

_LINE_ENDS = re.compile(r"\n|</?\w{1,32}>")
"""And the marks that a summary is asked to stand between."""
MOST_TIPS = 32
"""Chats that are looked through for where a request comes from, the latest ones: each costs a millisecond."""
LEAST_FOUND = 12
"""Characters of a reply that is looked for inside another text: shorter ones are found by chance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """Where a request comes from, beside the tokens it repeats."""

    cause: str
    """One of `FORK_CAUSES`: why it begins a branch; "": it does not."""
    leads: tuple[Lead, ...]


def lineage(history: History, place: Place, declared: Declared, *, side: bool) -> Lineage:
    """Of a request that goes on at `place`."""
    if side:
        return Lineage(cause="side", leads=())
    leads = [Lead(source=source, kind="returns") for source in _returned(history, place)]
    if place.parent >= 0:
        follows = any(not history.exchanges[c].side for c in history.children[place.parent])
        return Lineage(cause="branch" if follows else "", leads=tuple(leads))
    source, cause = _continued(history, place, declared)
    if source >= 0:
        leads = [lead for lead in leads if lead.source != source]
        leads.insert(0, Lead(source=source, kind="continues"))
    return Lineage(cause=cause, leads=tuple(leads))


def _continued(history: History, place: Place, declared: Declared) -> tuple[int, str]:
    """The exchange in whose stead a new window goes on, or -1, and why there is a new one."""
    if all(exchange.side for exchange in history.exchanges):
        return -1, ""
    threads = [exchange.declared.thread for exchange in history.exchanges]
    tips = [n for n in history.tips() if n not in history.led and threads[n] == declared.thread]
    tips = tips[-MOST_TIPS:]
    if declared.thread:
        if not tips:
            return -1, "subagent" if declared.thread not in threads else "token_mismatch"
        last = tips[-1]
        before = history.exchanges[last].declared
        is_next = before.purpose == "compaction" or before.window != declared.window
        found = is_next or _is_said(history.exchanges[last].reply, place.said)
        return last, "compaction" if found else "token_mismatch"
    for number in reversed(tips):
        if _is_said(history.exchanges[number].reply, place.said, roles=("system", "user")):
            return number, "compaction"
    alike = [(_shared(history, number, place.said), number) for number in tips]
    shared, number = max(alike, default=(0, -1))
    if shared:
        return number, "token_mismatch"
    return -1, "subagent"


def _returned(history: History, place: Place) -> Iterator[int]:
    """The exchanges of others whose last text is in an answer that `place` hears for the first time."""
    own = set(history.chain(place.parent))
    heard = place.said if place.parent >= 0 else place.said[_last_reply(place.said) :]
    for number in [n for n in history.tips() if n not in history.led][-MOST_TIPS:]:
        reply = history.exchanges[number].reply
        if number not in own and _is_said(reply, heard, roles=("tool",)):
            yield number


def _is_said(
    reply: Message, messages: Sequence[Message], *, roles: Sequence[str] = ("system", "user", "tool")
) -> bool:
    """Whether one of the messages repeats a reply, or most of its lines: harnesses take marks off."""
    text = reply.content.strip()
    if reply.tool_calls or not text:
        return False
    lines = [line for line in map(str.strip, _LINE_ENDS.split(text)) if len(line) >= LEAST_FOUND]
    for content in (message.content for message in messages if message.role in roles):
        if content.strip() == text:
            return True
        found = sum(len(line) for line in lines if line in content)
        if found > sum(map(len, lines)) / 2:
            return True
    return False


def _shared(history: History, number: int, messages: Sequence[Message]) -> int:
    """Messages of the user and of tools with which the chat up to `number` and another begin; 0: none.

    None either where the other goes on differently under other instructions: agents tell their sub-agents
    first what they were told first themselves, such as the date.
    """
    chain = history.chain(number)
    chat = [m for n in chain for m in _told(history.exchanges[n])]
    count = 0
    for mine, other in zip(chat, (m for m in messages if m.role in ("user", "tool")), strict=False):
        if mine.content.strip() != other.content.strip():
            break
        count += 1
    same = _instructions(history.exchanges[chain[0]].said) == _instructions(messages)
    return count if same or count == len(chat) else 0


def _instructions(messages: Sequence[Message]) -> str:
    return messages[0].content if messages[0].role == "system" else ""


def _told(exchange: Exchange) -> list[Message]:
    return [message for message in exchange.said if message.role in ("user", "tool")]


def _last_reply(messages: Sequence[Message]) -> int:
    """Where the messages after the last reply begin."""
    replies = [number for number, message in enumerate(messages) if message.role == "assistant"]
    return replies[-1] + 1 if replies else 0
