"""The page in a browser: it shows what is recorded, and what is recorded never runs.

`scripts/ensure_browser.sh` installs one.
"""

import asyncio
import html
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.launcher.view.example_trees import HOSTILE, RAN, agent_tree, hostile_tree, record
from tests.trees import random_tree
from trieline.command_line import main
from trieline.common.text import visible
from trieline.launcher.view import live
from trieline.launcher.view.selection import Selection

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium (scripts/ensure_browser.sh installs it)"),
]


def opened(page: Path | str, profile: Path, place: str = "") -> tuple[str, str]:
    """The document after its programs ran, and what they complained of. `page`: a file, or an address."""
    assert BROWSER is not None
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command += [
        "--window-size=1200,800",
        "--virtual-time-budget=8000",
        "--enable-logging=stderr",
        "--dump-dom",
    ]
    ended = subprocess.run(
        [*command, f"{page.as_uri() if isinstance(page, Path) else page}#{place}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return ended.stdout, "\n".join(line for line in ended.stderr.splitlines() if ":CONSOLE" in line)


def viewed(journal: Path) -> Path:
    page = journal.parent / "page.html"
    assert main(["view", str(journal), "--output", str(page)]) == 0
    return page


def test_a_program_that_runs_is_seen(tmp_path: Path) -> None:
    # What the tests below say does not happen, happening: else they could not fail.
    page = tmp_path / "unsafe.html"
    page.write_text(f"<title>quiet</title><body>{HOSTILE}</body>", encoding="utf-8")
    document, _ = opened(page, tmp_path / "profile")
    assert "<title>it ran</title>" in document
    assert "<blink>" in document


@pytest.mark.parametrize(
    "place", ["tree=0&leaf=1", "tree=0&node=7&colour=entropy", "tree=0&find=%3Cscript%3E"]
)
def test_hostile_text_stays_text(place: str, tmp_path: Path) -> None:
    page = viewed(record(tmp_path / "journal", hostile_tree()))
    document, complaints = opened(page, tmp_path / "profile", place)
    assert "it ran</title>" not in document
    assert "<blink>" not in document
    assert "<img" not in document
    assert document.count("<script") == 2
    assert html.escape(visible(HOSTILE), quote=False) in document
    assert complaints == ""
    assert html.escape(RAN, quote=False) in document


def test_a_tree_is_drawn_with_all_that_is_in_it(tmp_path: Path) -> None:
    page = viewed(record(tmp_path / "journal", agent_tree()))
    document, complaints = opened(page, tmp_path / "profile", "tree=0&leaf=2")
    assert complaints == ""
    for shown in (
        'class="edge returns"',
        'class="edge continues"',
        "node 4 returns to node 5",
        "node 6 continues in node 7",
        "side branch",
        "broken: sandbox",
        'class="cause compaction"',
        'class="cause token_mismatch"',
        'class="cause subagent"',
        "importance ratio (not recorded)",
        "reward +1.00",
        "comparison group 0",
    ):
        assert shown in document
    assert document.count('data-node="') == agent_tree().num_nodes


@pytest.mark.parametrize(
    "colour", ["logprob", "entropy", "advantage", "version", "reward", "returns", "none"]
)
def test_trees_of_every_shape_are_drawn_in_every_colour(colour: str, tmp_path: Path) -> None:
    trees = [random_tree(np.random.default_rng(seed), later_columns=True) for seed in range(12)]
    page = viewed(record(tmp_path / "journal", *trees))
    number = ["logprob", "entropy", "advantage", "version", "reward", "returns", "none"].index(colour)
    document, complaints = opened(page, tmp_path / "profile", f"tree={number}&colour={colour}")
    assert complaints == ""
    assert document.count('data-node="') == trees[number].num_nodes
    assert f'value="{colour}" selected=""' in document


def test_what_is_searched_for_is_found_and_marked(tmp_path: Path) -> None:
    page = viewed(record(tmp_path / "journal", agent_tree(said="A needle"), agent_tree("other")))
    document, complaints = opened(page, tmp_path / "profile", "tree=1&find=NEEDLE")
    assert complaints == ""
    assert "2 matches in 1 tree" in document
    assert "found-here" in document or "<mark>needle</mark>" in document


def test_hundreds_of_trees_open(tmp_path: Path) -> None:
    page = viewed(record(tmp_path / "journal", *[agent_tree(f"task {n}") for n in range(500)]))
    assert page.stat().st_size < 2_000_000
    document, complaints = opened(page, tmp_path / "profile", "tree=499")
    assert complaints == ""
    assert document.count("<tr ") == 300
    assert "300 of 500 trees, evenly spaced" in document
    assert "<h2>task 499</h2>" in document


def test_a_live_page_shows_what_comes_and_hostile_text_stays_text(tmp_path: Path) -> None:
    record(tmp_path / "journal", agent_tree("first"), hostile_tree())

    async def visit() -> tuple[str, str]:
        server = live.LivePage(live.GrowingTrees(path=str(tmp_path), selection=Selection()))
        await server.start()
        try:
            return await asyncio.to_thread(opened, server.url, tmp_path / "profile")
        finally:
            await server.close()

    document, complaints = asyncio.run(visit())
    assert complaints == ""
    assert '<span class="live">live</span>' in document
    assert document.count("<tr ") == 2
    assert html.escape(visible(HOSTILE), quote=False) in document
    assert "it ran</title>" not in document
    assert "<blink>" not in document
