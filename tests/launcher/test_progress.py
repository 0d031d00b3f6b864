"""The live view shows what strangers wrote and obeys none of it."""

import io

import pytest
from rich.console import Console

from trieline.launcher.progress import Progress, say

HOSTILE = "me/[/b][red]\x1b[2JEcho\u202e-v0"
SHOWN = r"me/[/b][red]\x1b[2JEcho\u202e-v0"
RECORD = {
    "step": 1,
    "time/step": 2.0,
    "reward/mean": 0.5,
    f"reward/{HOSTILE}/mean": 0.5,
    f"eval/{HOSTILE}/avg@k": 0.25,
    "sample": {"env": HOSTILE, "prompt": "[/i]\x07", "reply": "[bold]\rx", "reward": 1.0},
}


@pytest.mark.parametrize("terminal", [True, False])
def test_names_and_samples_are_neither_markup_nor_commands(terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, color_system=None, width=160)
    with Progress(f"run {HOSTILE}", steps=2, console=console) as progress:
        progress.update(RECORD)
        console.print(progress.render())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for text in (SHOWN, f"run {SHOWN}", rf"{SHOWN}, reward 1.0", r"[/i]\x07", r"[bold]\rx"):
        assert text in shown
    assert "\x07" not in shown
    assert "\u202e" not in shown
    assert "\x1b[2JEcho" not in shown


def test_a_line_with_a_path_is_shown_as_it_is_and_not_broken() -> None:
    console = Console(file=io.StringIO(), width=20)
    say(console, "run folder: /home/me/runs [old]/" + "a" * 40 + "\x1b[1m")
    assert console.file.getvalue() == (  # type: ignore[attr-defined]
        "run folder: /home/me/runs [old]/" + "a" * 40 + "\\x1b[1m\n"
    )
