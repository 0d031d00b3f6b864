"""What is noted of sessions in their tree, for people."""

from collections.abc import Mapping, Sequence

from trieline.actors.gateway.session import Session
from trieline.common.message import text_of
from trieline.common.text import shortened

MAX_NOTE = 4000


def session_notes(sessions: Sequence[Session]) -> dict[str, str]:
    """Of the first one that asked anything what it asked and heard; and why one is broken."""
    notes = {
        "broken": next((s.closed.reason for s in sessions if s.closed is not None and s.closed.cause), "")
    }
    first = next((s for s in sessions if s.exchanges), None)
    if first is not None:
        notes |= {
            "prompt": text_of(first.exchanges[0].said),
            "reply": first.exchanges[-1].reply.content,
            "score": first.closed.score if first.closed is not None else "",
        }
    return notes


def bounded(notes: Mapping[str, str]) -> dict[str, str]:
    """Those that say anything, each short and without what a terminal obeys."""
    return {name: shortened(text, MAX_NOTE, keep="\n") for name, text in notes.items() if text}
