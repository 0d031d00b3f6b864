"""`trieline show` and `trieline export` on journals, whole and damaged."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from tests.wire.journals import deliveries, write
from trieline.command_line import main
from trieline.config import load_config, write_config
from trieline.launcher.sft_run import DATA_FOLDER
from trieline.learner.model_folder.model_source import prepare_model


def test_trees_are_chosen_from_either_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trees = deliveries(4)
    write(tmp_path, trees)

    def shown(*options: str) -> list[int]:
        assert main(["show", str(tmp_path), *options]) == 0
        text = capsys.readouterr().out
        return [n for n, d in enumerate(trees) if d.tree.task_id in text]

    assert shown() == [3]
    assert shown("--tree", "1") == [1]
    assert shown("--tree", "-3", "--count", "2") == [1, 2]
    assert shown("--tree", "2", "--count", "9") == [2, 3]
    for wrong in ("4", "-5"):
        assert main(["show", str(tmp_path), "--tree", wrong]) == 2
        assert f"--tree: expected one of 4 trees in {tmp_path}, got {wrong}" in capsys.readouterr().err
    for wrong in ("0", "-1"):
        assert main(["show", str(tmp_path), "--tree", "0", "--count", wrong]) == 2
        assert f"expected --count of at least 1, got {wrong}" in capsys.readouterr().err


def test_whoever_reads_the_output_may_stop(tmp_path: Path) -> None:
    write(tmp_path, deliveries(300))
    command = [sys.executable, "-m", "trieline", "export", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as export:
        assert export.stdout is not None
        assert export.stderr is not None
        assert export.stdout.read(1) == b"{"
        export.stdout.close()
        assert export.stderr.read() == b""
        assert export.wait() == 1


@pytest.mark.parametrize("verb", ["show", "export", "view"])
def test_a_damaged_journal_is_one_line(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (whole,) = deliveries(1)
    cycle = replace(whole.tree, parents=whole.tree.parents[::-1].copy())
    write(tmp_path, [msgspec.structs.replace(whole, tree=cycle)])
    assert main([verb, str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"trieline {verb}: corrupt journal: {tmp_path}/trees-000000000000.journal at offset 16"
    )
    assert said.count("\n") == 1


@pytest.mark.parametrize("which", [".", DATA_FOLDER])
def test_the_data_of_a_fine_tuning_run_are_shown_as_text(
    which: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_model("builtin:tiny")
    write_config(load_config(["tiny"], []), tmp_path / "config.toml")
    tree = deliveries(1)[0]
    ids = tree.tree.token_ids.copy()
    ids[:] = 65
    write(tmp_path / DATA_FOLDER, [replace(tree, tree=replace(tree.tree, token_ids=ids))])
    assert main(["show", str(tmp_path / which)]) == 0
    assert "65" not in capsys.readouterr().out


def test_sequences_go_to_standard_output_or_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal, path = tmp_path / "journal", tmp_path / "trees.jsonl"
    trees = deliveries(3)
    write(journal, trees)
    assert main(["export", str(journal)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == sum(d.tree.num_leaves for d in trees)
    assert json.loads(lines[0])["task_id"] == trees[0].tree.task_id
    assert main(["export", str(tmp_path), "--out", str(path)]) == 0
    assert capsys.readouterr().out == f"{len(lines)} sequences in {path}\n"
    assert path.read_text().splitlines() == lines
    assert main(["export", str(journal), "--env", "none/Such-v0"]) == 0
    assert capsys.readouterr().out == ""
