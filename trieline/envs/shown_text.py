"""Text of environments and policies, as a person may see it on a terminal."""

KEPT = "\n\t"


def shown(text: str) -> str:
    """`text` with every character that does not print made visible: no escape sequence reaches a terminal.

    Line breaks and tabs stay. Lone surrogates, which can't be written anywhere, become printable too.
    """
    return "".join(
        char if char.isprintable() or char in KEPT else char.encode("unicode_escape").decode()
        for char in text
    )
