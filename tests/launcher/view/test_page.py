"""The page of a journal: what is in it, and that nothing in it is more than text."""

import base64
import gzip
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from tests.launcher.view.example_trees import HOSTILE, agent_tree, hostile_tree, record
from tests.trees import random_tree
from tests.wire.journals import deliveries, write
from trieline.command_line import main
from trieline.common.text import LINES, visible
from trieline.launcher.view import selection as selection_module
from trieline.launcher.view.page import PROGRAM
from trieline.wire.journal import read_journal, write_tree
from trieline.wire.tree import EDGE_KINDS, FORK_CAUSES


class Elements(HTMLParser):
    """Every element of a page with its text, as a browser's parser finds them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self.found.append(("", {}, ""))

    def handle_data(self, data: str) -> None:
        if self.found:
            tag, attributes, text = self.found[-1]
            self.found[-1] = (tag, attributes, text + data)


def viewed(path: Path, *options: str) -> str:
    output = path.parent / "page.html"
    assert main(["view", str(path), "--output", str(output), *options]) == 0
    return output.read_text("utf-8")


def data_of(page: str) -> dict[str, Any]:
    (text,) = [text for _, attributes, text in Elements(page).found if attributes.get("id") == "data"]
    found: dict[str, Any] = json.loads(text)
    return found


def unpacked(task: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(task["packed"])))
    return found


def test_the_page_holds_the_tree(tmp_path: Path) -> None:
    tree = agent_tree()
    page = viewed(record(tmp_path / "journal", tree))
    (task,) = data_of(page)["trees"]
    assert (task["task"], task["env"], task["versions"]) == ("leap day", "test/Agent-v0", [4, 4])
    assert task["returns"] == [*(tree.sequence_return(leaf) for leaf in range(3)), None]
    shown = unpacked(task)
    assert shown["parents"] == tree.parents.tolist()
    assert "".join(shown["texts"][slice(*shown["offsets"][2:4])]) == "I'll ask."
    assert shown["edges"] == [[4, 5, "returns"], [6, 7, "continues"]]
    assert [leaf["cause"] for leaf in shown["leaves"]] == ["", "", "", "sandbox"]
    known = [None if np.isnan(e) else float(e) for e in tree.entropies]
    assert shown["entropies"] == known
    np.testing.assert_allclose(shown["logprobs"], tree.behavior_logprobs, atol=1e-4)


def test_nothing_hostile_stands_in_the_source(tmp_path: Path) -> None:
    page = viewed(record(tmp_path / "journal", hostile_tree()))
    plain = viewed(record(tmp_path / "other", agent_tree()))
    tags = [tag for tag, _, _ in Elements(page).found]
    assert tags == [tag for tag, _, _ in Elements(plain).found]
    assert tags.count("script") == 2
    for wrong in ("<img", "<svg onload", "</style><", "<!--<script", "\u2028", "\u202e"):
        assert wrong not in page
    (task,) = data_of(page)["trees"]
    assert task["task"] == visible(HOSTILE)
    shown = unpacked(task)
    assert "".join(shown["texts"][slice(*shown["offsets"][6:8])]) == visible(HOSTILE, keep=LINES)
    assert shown["info"] == {"score": visible(HOSTILE, keep=LINES)}


def test_the_policy_lets_only_its_own_program_run(tmp_path: Path) -> None:
    found = Elements(viewed(record(tmp_path / "journal", hostile_tree()))).found
    (policy,) = [a["content"] for _, a, _ in found if a.get("http-equiv") == "Content-Security-Policy"]
    (program,) = [text for tag, attributes, text in found if tag == "script" and not attributes]
    digest = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_program_writes_no_markup_and_asks_no_network() -> None:
    program = "\n".join((files("trieline.launcher.view") / name).read_text("utf-8") for name in PROGRAM)
    for wrong in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
        assert wrong not in program
    parts = [*PROGRAM, "page.css", "page.html"]
    whole = "\n".join((files("trieline.launcher.view") / name).read_text("utf-8") for name in parts)
    assert re.findall(r"https?://[^\"' ]+", whole) == ["http://www.w3.org/2000/svg"]


def test_the_program_knows_every_cause_and_edge() -> None:
    program = (files("trieline.launcher.view") / "scales.js").read_text("utf-8")
    for name in (*filter(None, FORK_CAUSES), *EDGE_KINDS):
        assert f"\n  {name}: " in program


def test_trees_are_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = tmp_path / "journal"
    write(journal, deliveries(9))

    def numbers(*options: str) -> list[int]:
        return [task["number"] for task in data_of(viewed(journal, *options))["trees"]]

    assert numbers() == list(range(9))
    assert "trees in" in capsys.readouterr().out
    assert numbers("--tasks", "3") == [0, 4, 8]
    assert "3 of 9 trees, evenly spaced" in capsys.readouterr().out
    assert numbers("--from", "2", "--to", "4") == [2, 3, 4]
    assert numbers("--from", "7") == [7, 8]
    assert numbers("--env", "none/Such-v0", "--env", "test/Random-v0") == list(range(9))
    for options, said in (
        (["--tasks", "0"], "expected at least one tree to show (--tasks), got 0"),
        (["--from", "4", "--to", "3"], "expected 0 <= --from <= --to, got --from 4 and --to 3"),
        (["--from", "-1"], "got --from -1"),
        (["--from", "9"], "found none that was asked for"),
        (["--env", "none/Such-v0"], "found none that was asked for"),
    ):
        assert main(["view", str(journal), "--output", str(tmp_path / "none.html"), *options]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "none.html").exists()
    assert main(["view", str(tmp_path / "nowhere")]) == 2
    assert "found nothing there" in capsys.readouterr().err


def test_what_is_too_much_for_a_page_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = agent_tree()
    monkeypatch.setattr(selection_module, "MOST_TOKENS", 2 * tree.num_tokens)
    data = data_of(viewed(record(tmp_path / "journal", tree, tree, tree)))
    assert [task["number"] for task in data["trees"]] == [0, 1]
    assert data["left_out"].startswith("1 trees left out, with which the page would hold more than")


def test_one_tree_in_a_file_is_shown(tmp_path: Path) -> None:
    (found,) = read_journal(record(tmp_path / "journal", agent_tree()))
    (tmp_path / "trees").mkdir()
    write_tree(tmp_path / "trees" / "one.tree", found)
    (task,) = data_of(viewed(tmp_path / "trees" / "one.tree"))["trees"]
    assert "".join(unpacked(task)["texts"]).startswith("You repair packages.")


def test_without_a_tokenizer_ids_are_shown_and_that_is_said(tmp_path: Path) -> None:
    tree = random_tree(np.random.default_rng(1), later_columns=True)
    write(tmp_path / "journal", [replace(deliveries(1)[0], tree=tree)])
    data = data_of(viewed(tmp_path / "journal"))
    assert not data["has_text"]
    assert unpacked(data["trees"][0])["texts"] == [f"{token} " for token in tree.token_ids.tolist()]


def test_pages_are_made_without_torch(tmp_path: Path) -> None:
    record(tmp_path / "journal", agent_tree())
    code = (
        "import sys\nfrom trieline.command_line import main\n"
        f"main(['view', {str(tmp_path / 'journal')!r}, '--output', {str(tmp_path / 'page.html')!r}])\n"
        "assert not {'torch', 'aiohttp'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
