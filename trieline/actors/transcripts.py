"""An episode as a chat, for people."""

from collections.abc import Iterable

import msgspec

from trieline.common.text import encodable

MAX_MESSAGES = 64
MAX_MESSAGE_CHARACTERS = 4000


def transcript_of(said: Iterable[tuple[str, str]]) -> str:
    """JSON, a list of messages with `role` and `content`, of (role, content) in their order."""
    shown = [{"role": role, "content": ended(content, MAX_MESSAGE_CHARACTERS)} for role, content in said]
    return msgspec.json.encode(shown[:MAX_MESSAGES]).decode()


def ended(text: str, most: int) -> str:
    """`text` in at most `most` characters; three dots at its end say that there was more."""
    return encodable(text, most) if len(text) <= most else f"{encodable(text, most - 3)}..."
