"""Conversations and whole trees in files, and what comes back of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow.parquet import read_table

from tests.actors.test_read_chat import ANSWERED, ASKED, SAID, folder_of
from tests.actors.test_tool_speech import PRICE
from tests.launcher.test_export import delivery
from tests.launcher.view.example_trees import record
from tests.trees import random_tree
from tests.wire.journals import write
from trieline.actors.conversations import ENV_ID
from trieline.actors.demonstrations import written_completion
from trieline.actors.endpoint_policy import ByteChat
from trieline.actors.tree_builder import TreeBuilder
from trieline.command_line import main
from trieline.launcher.export import export
from trieline.launcher.tree_rows import TREES, tree_of
from trieline.wire.journal import read_journal
from trieline.wire.tree import SCORED


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def chats() -> list[dict[str, Any]]:
    """Two of one task, one of another that calls a tool."""
    call, answer = ASKED[1].tool_calls[0], ANSWERED[0]
    function = {"name": call.name, "arguments": call.arguments}
    said = [{"role": m.role, "content": m.content} for m in SAID]
    called = [
        {"role": "user", "content": ASKED[0].content},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "id": call.id, "function": function}],
        },
        {"role": "tool", "content": answer.content, "name": call.name, "tool_call_id": call.id},
        {"role": "assistant", "content": ANSWERED[1].content},
    ]
    named = {"terminated": True, "env_id": "my/Env-v0", "level": 1}
    return [
        {"messages": said, "tools": None, "reward": 1.0, **named, "task_id": "a"},
        {"messages": said[:2], "tools": None, "reward": 0.5, **named, "task_id": "a"},
        {"messages": called, "tools": json.dumps([PRICE]), "reward": -1.0, **named, "task_id": "b"},
    ]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "model", "HERMES")


@pytest.fixture
def journal(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in chats()))
    assert main(["import", str(path), "--output", str(tmp_path / "journal"), "--model", str(model)]) == 0
    assert "3 chats in" in capsys.readouterr().out
    return tmp_path / "journal"


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_chats_come_back_as_they_were(
    suffix: str, tmp_path: Path, model: Path, journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, again = tmp_path / f"out.{suffix}", tmp_path / "again"
    options = ["--messages", "--model", str(model)]
    assert main(["export", str(journal), *options, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"3 conversations in {out}\n"
    assert main(["import", str(out), "--output", str(again), "--model", str(model)]) == 0
    assert main(["export", str(again), *options, "--out", str(tmp_path / "last.jsonl")]) == 0
    for row, wanted in zip(lines(tmp_path / "last.jsonl"), chats(), strict=True):
        assert {name: value for name, value in row.items() if name != "trajectory_id"} == wanted


def test_only_conversations_of_enough_return_are_exported(
    tmp_path: Path, model: Path, journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--messages", "--model", str(model), "--min-return", "0.5"]
    assert main(["export", str(journal), *options]) == 0
    assert [json.loads(line)["reward"] for line in capsys.readouterr().out.splitlines()] == [1.0, 0.5]
    assert main(["export", str(journal), "--min-return", "1"]) == 2
    assert "expected --min-return with --messages alone, got --min-return 1" in capsys.readouterr().err


def test_whose_tokens_they_are_has_to_be_said(
    tmp_path: Path, model: Path, journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(journal), "--messages"]) == 2
    assert "expected --model" in capsys.readouterr().err
    other = folder_of(tmp_path / "other", "MISTRAL")
    assert main(["export", str(journal), "--messages", "--model", str(other)]) == 2
    assert f"expected the model whose tokens are in {journal}" in capsys.readouterr().err
    # Those of another: nothing of them can be read, and that is said.
    write(tmp_path / "random", [delivery(random_tree(np.random.default_rng(3), broken_leaves=0), 0)])
    assert main(["export", str(tmp_path / "random"), "--messages", "--model", str(model)]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "left out, since they can't be read back: expected the start of a reply" in said.err


def test_a_journal_is_not_written_over(
    tmp_path: Path, model: Path, journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = ["import", str(tmp_path / "chats.jsonl"), "--output", str(journal), "--model", str(model)]
    assert main(again) == 2
    assert "expected a new folder for the journal, got" in capsys.readouterr().err
    assert len(list(read_journal(journal))) == 2


def test_chats_that_are_spelled_in_bytes_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat, builder = ByteChat(system_prompt="Be brief."), TreeBuilder()
    root = builder.add_context(-1, chat.prompt_tokens("one"), fork_cause="rollout")
    reply = np.array([*"42 <|im_end|> ä".encode(), *chat.stop_ids], np.int32)
    builder.add_leaf(
        builder.add_sampled(root, written_completion(reply), fork_cause=""), terminated=True, cause=SCORED
    )
    record(tmp_path / "journal", builder.build(env_id=ENV_ID, task_id="a", level=0, info={}))
    assert main(["export", str(tmp_path / "journal"), "--messages"]) == 0
    assert json.loads(capsys.readouterr().out)["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "42 <|im_end|> ä"},
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_whole_trees_come_back_from_their_rows(suffix: str, tmp_path: Path) -> None:
    trees = [random_tree(np.random.default_rng(seed), later_columns=seed % 2 == 0) for seed in range(8)]
    path = tmp_path / f"trees.{suffix}"
    assert export([delivery(tree, n) for n, tree in enumerate(trees)], path, TREES) == 8
    rows = lines(path) if suffix == "jsonl" else read_table(path).to_pylist()
    for number, (row, tree) in enumerate(zip(rows, trees, strict=True)):
        assert (row["actor_id"], row["sequence_number"], row["purpose"]) == ("actor", number, "train")
        found = tree_of(row)
        for name in tree.__struct_fields__:
            one, other = getattr(found, name), getattr(tree, name)
            if isinstance(other, np.ndarray):
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)
            else:
                assert one == other


def test_datasets_reads_the_conversations(
    tmp_path: Path, model: Path, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    for suffix, kind in (("jsonl", "json"), ("parquet", "parquet")):
        out = tmp_path / f"out.{suffix}"
        assert main(["export", str(journal), "--messages", "--model", str(model), "--out", str(out)]) == 0
        found = datasets.load_dataset(
            kind, data_files=str(out), split="train", cache_dir=str(tmp_path / "cache")
        )
        assert len(found) == 3
        assert [m["content"] for m in found[0]["messages"]] == [m.content for m in SAID]
        call = found[2]["messages"][1]["tool_calls"][0]["function"]
        assert call["name"] == "set_price"
        arguments = call["arguments"]
        assert (arguments if kind == "json" else json.loads(arguments)) == {"item": "12 eggs", "price": 30}
        assert json.loads(found[2]["tools"]) == [PRICE]
