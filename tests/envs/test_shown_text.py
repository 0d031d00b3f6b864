"""What a terminal would obey is shown, not done."""

import pytest

from trieline.envs import make_env
from trieline.envs.shown_text import shown


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain text, ß 日本語 🙂\n\tindented", "plain text, ß 日本語 🙂\n\tindented"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("over\rwritten\x08", "over\\rwritten\\x08"),
        ("\x9b31m\x7f\x00", "\\x9b31m\\x7f\\x00"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_does_not_print_is_made_visible(text: str, seen: str) -> None:
    assert shown(text) == seen
    assert shown(text).encode()


def test_a_rendered_episode_can_be_looked_at() -> None:
    env = make_env("trieline/GuessNumber-v0", render_mode="ansi")
    env.reset(seed=0)
    env.step("\x1b[2J\ud800")
    script = env.render()
    assert isinstance(script, str)
    assert "> \\x1b[2J\\ud800\n" in script
