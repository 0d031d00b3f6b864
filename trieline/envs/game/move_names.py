"""The names of moves that are in a reply."""

import functools
import re
from collections.abc import Collection

READ_LENGTH = 2_000
"""Characters of a reply that are looked at, from its end."""
KEPT_PATTERNS = 256
MISTAKEN = "Name exactly one of the moves."
"""Said before the question is asked again."""
_BLANKS = re.compile(r"\s+")


def named_actions(reply: str, names: Collection[str]) -> list[str]:
    """The moves that the last line of a reply names, each once. Case counts where it tells moves apart."""
    if reply in names:
        return [reply]
    lines = reply[-READ_LENGTH:].strip().splitlines()
    line = _BLANKS.sub(" ", lines[-1]) if lines else ""
    found = _pattern(tuple(names)).findall(line)
    folded = {name.lower(): name for name in names}
    if len(folded) < len(names):
        return [*dict.fromkeys(name for name in found if name in names)]
    # Letters that are one for the search may be two for `lower`: the long s and s.
    return [*dict.fromkeys(folded[name.lower()] for name in found if name.lower() in folded)]


@functools.lru_cache(maxsize=KEPT_PATTERNS)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    """The longest name first; not in the middle of words and numbers."""
    parts = (re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)", re.IGNORECASE)
