from collections.abc import Callable, Sequence

import numpy as np
from msgspec.structs import replace
from rich.console import Console

from tests.wire.test_tree import two_rollouts, with_later_columns
from trieline.launcher.tree_view import draw_tree
from trieline.wire.tree import TrajectoryTree


def drawn(tree: TrajectoryTree, decode: Callable[[Sequence[int]], str] | None = None) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(draw_tree(tree, decode=decode, advantages=[-1.0, 1.0]))
    return capture.get()


def test_groups_masks_edges_and_unknown_entropies_are_shown() -> None:
    entropies = np.array([0, 0, 0, np.nan, np.nan, 1, np.nan, 0], np.float32)
    lines = drawn(with_later_columns(entropies=entropies)).splitlines()
    # One episode of two sequences, with one return.
    assert "2 sequences in 1 episode, 8 tokens, mean return 1.00" in lines[0]
    first, second = (line for line in lines[1:] if "return 1.00" in line)
    assert "entropy unknown" in first
    assert "returns to node 2" in first
    assert first.endswith("terminated, group 0")
    assert "policy node 2" in second
    assert "entropy 0.50 of 2 tokens" in second
    assert "2 under a mask" in second
    assert second.endswith("terminated, group 1")


def test_a_tree_without_them_is_shown_without_them() -> None:
    shown = drawn(two_rollouts())
    assert "group" not in shown
    assert "mask" not in shown
    assert "node" not in shown


def test_what_policies_and_actors_wrote_commands_no_terminal() -> None:
    tree = replace(two_rollouts(), env_id="e\x1b[2J", task_id="[red]\u202e")
    shown = drawn(tree, decode=lambda ids: "one\ntwo\x1b]0;title\x07\x9b2J [bold]\u202e")
    assert "one⏎two\\x1b]0;title\\x07\\x9b2J [bold]\\u202e" in shown
    assert "e\\x1b[2J  [red]\\u202e" in shown
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(shown)
