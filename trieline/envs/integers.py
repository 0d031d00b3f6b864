"""Integer literals in what models write, read the same way by every environment.

Digits may be grouped by threes: `9,801`, `9 801` (also with a thin or a protected blank), `9_801`, `9'801`,
LaTeX's `9{,}801` and `9\\,801`. `−` and full-width characters are those of ASCII. What stands around a
literal (`$9,801$`, `**9,801**`, `9801.`) is not looked at, unless it makes it a part of something else: of a
decimal (`9.801`, whatever a German means by it, and `7,5`), a fraction, a power, a time, a word.
"""

import re
from collections.abc import Iterator

_WIDE = {0xFF10 + digit: str(digit) for digit in range(10)} | {0xFF0D: "-", 0xFF0C: ",", 0xFF0E: "."}
_SEPARATOR = r"[,_'’ \u00a0\u2009\u202f]|\{,\}|\\,"
_GROUPED = (
    rf"[0-9]{{1,3}}(?P<separator>{_SEPARATOR})[0-9]{{3}}(?![0-9])(?:(?P=separator)[0-9]{{3}}(?![0-9]))*"
)
# A sign is one where nothing stands before it that something could be taken from.
_SIGN = r"(?P<sign>(?<![A-Za-z0-9)])[-−‑–])?"
# Joined to other digits without a blank, digits that are no group are no number of their own: 7,5 or 7/2.
_JOINED = r"[,_'’./^:]"
_LITERAL = re.compile(
    # A full stop before it makes a decimal, three of them do not.
    rf"{_SIGN}(?<![A-Za-z0-9^])(?<![A-Za-z]_)(?<![0-9]{_JOINED})(?<!^\.)(?<![^.]\.)"
    rf"(?P<digits>(?>{_GROUPED}|[0-9]+))"
    rf"(?![A-Za-z0-9²³^]|_[A-Za-z]|{_JOINED}[0-9])"
)


def integers(text: str) -> Iterator[str]:
    """All integer literals in `text`, in order: digits without separators, `-` before negative ones."""
    for match in _LITERAL.finditer(text.translate(_WIDE)):
        digits = re.sub("[^0-9]", "", match["digits"])
        yield f"-{digits}" if match["sign"] else digits
