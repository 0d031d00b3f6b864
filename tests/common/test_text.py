import pytest

from trieline.common.text import LINES, shortened, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("as it is, with umlauts: äöü", "as it is, with umlauts: äöü"),
        ("two\nlines\r", r"two\nlines\r"),
        ("\x1b[2Jcleared\x07", r"\x1b[2Jcleared\x07"),
        ("\u202eturned\u2028", r"\u202eturned\u2028"),
        ("half a pair \ud800", r"half a pair \ud800"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert shortened(text) == shown


def test_what_is_kept_stays() -> None:
    assert visible("two\nlines\x1b", keep="\n") == "two\nlines\\x1b"
    indented = "plain text, ß 日本語 🙂\n\tindented"
    assert visible(indented, keep=LINES) == indented


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a" * 20, "a" * 20),
        ("a" * 21, "a" * 17 + "..."),
        ("\n" * 11, "\\n" * 8 + "\\..."),
        (ValueError("no"), "no"),
    ],
)
def test_what_is_long_is_cut_and_says_so(text: object, shown: str) -> None:
    assert shortened(text, 20) == shown
