"""The page of a run that goes on: what came since, for this machine and this page alone."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.launcher.view.example_trees import agent_tree, append, hostile_tree, record
from tests.launcher.view.test_page import data_of
from trieline.command_line import main
from trieline.launcher.view import live
from trieline.launcher.view.selection import Selection
from trieline.wire.journal import Journal


@asynccontextmanager
async def served(
    path: Path, selection: Selection
) -> AsyncIterator[tuple[live.LivePage, aiohttp.ClientSession]]:
    server = live.LivePage(live.GrowingTrees(path=str(path), selection=selection))
    await server.start()
    try:
        async with aiohttp.ClientSession() as client:
            yield server, client
    finally:
        await server.close()
        await server.close()


def test_trees_come_as_they_are_recorded(tmp_path: Path) -> None:
    trees = live.GrowingTrees(path=str(tmp_path), selection=Selection(most=3))
    trees.read()
    assert trees.since(-1)["problem"] == "no trees yet"
    record(tmp_path / "journal", agent_tree(), hostile_tree())
    trees.read()
    assert [t["number"] for t in trees.since(-1)["trees"]] == [0, 1]
    assert [t["number"] for t in trees.since(0)["trees"]] == [1]
    assert trees.since(-1)["problem"] == ""
    journal = Journal(tmp_path / "journal")
    append(journal, *[agent_tree(str(n)) for n in range(2, 5)])
    journal.close()
    trees.read()
    reply = trees.since(1)
    assert [t["task"] for t in reply["trees"]] == ["2", "3", "4"]
    assert (reply["after"], reply["more"]) == (4, False)
    assert reply["left_out"] == "the newest 3 trees; 2 before them are left out"
    trees.read()
    assert trees.since(4)["trees"] == []


def test_of_a_long_journal_the_newest_are_read_and_a_reply_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "TREES_A_REPLY", 2)
    record(tmp_path / "journal", *[agent_tree(str(n)) for n in range(7)])
    trees = live.GrowingTrees(path=str(tmp_path), selection=Selection(most=3, first=1))
    trees.read()
    reply = trees.since(-1)
    assert ([t["number"] for t in reply["trees"]], reply["after"], reply["more"]) == ([4, 5], 5, True)
    assert trees.since(5)["more"] is False
    assert trees.dropped == 3


def test_only_this_machine_and_who_knows_the_address_are_answered(tmp_path: Path) -> None:
    record(tmp_path / "journal", hostile_tree())

    async def ask() -> None:
        async with served(tmp_path, Selection()) as (server, client):
            root, port = server.url.rsplit("/", 2)[0], server.url.split(":")[2].split("/")[0]
            assert server.url.startswith("http://127.0.0.1:")
            async with client.get(server.url) as reply:
                assert reply.status == 200
                assert reply.headers["Cache-Control"] == "no-store"
                assert reply.headers["X-Frame-Options"] == "DENY"
                page = await reply.text()
            assert data_of(page)["live"] is True
            assert "connect-src 'self'" in page
            async with client.get(server.url + "trees?after=-1") as reply:
                text = await reply.text()
            assert "<" not in text
            assert [t["number"] for t in json.loads(text)["trees"]] == [0]
            for host in (
                f"evil.example:{port}",
                "evil.example",
                "127.0.0.1",
                f"127.0.0.1.evil.example:{port}",
            ):
                for place in ("", "trees?after=-1"):
                    async with client.get(server.url + place, headers={"Host": host}) as reply:
                        assert reply.status == 421
                        assert "hostile" not in await reply.text()
            for wrong in ("/", "/other/", "/other/trees?after=-1", "/%00/", "/é/trees"):
                async with client.get(root + wrong) as reply:
                    assert reply.status == 404
            for after in ("", "x", "-2", "1e9", "²", "9" * 13):
                async with client.get(server.url + "trees", params={"after": after}) as reply:
                    assert reply.status == 400
            async with client.post(server.url) as reply:
                assert reply.status == 404

    asyncio.run(ask())


def test_wrong_options_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, said in (
        (["--output", "page.html"], "expected --output or --live, got both"),
        (["--port", "70000"], "expected a --port in [0, 65536), got 70000"),
    ):
        assert main(["view", str(tmp_path), "--live", *options]) == 2
        assert said in capsys.readouterr().err
