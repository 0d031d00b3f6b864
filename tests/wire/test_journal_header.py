import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.wire.journals import deliveries, numbers, write
from trieline.wire.errors import JournalError, ModelFolderError
from trieline.wire.journal import Journal
from trieline.wire.journal_header import (
    JournalHeader,
    expect_tokenizer,
    header_of,
    read_header,
    tokenizer_fingerprint,
)

OURS = JournalHeader(vocab_size=40, tokenizer="a" * 64)
ANOTHER = JournalHeader(vocab_size=50, tokenizer="b" * 64)


def begin(folder: Path, header: JournalHeader | None) -> None:
    with closing(Journal(folder, header=header)) as journal:
        journal.append(deliveries(1)[0])


def test_a_journal_says_of_which_tokenizer_it_is(tmp_path: Path) -> None:
    begin(tmp_path, OURS)
    assert read_header(tmp_path) == OURS
    begin(tmp_path, OURS)
    expect_tokenizer(tmp_path, OURS)
    complaint = (
        r"own tokenizer \(bbbbbbbbbbbb, vocabulary of 50\) in .*, got one of another \(aaaaaaaaaaaa, 40\)"
    )
    for refused in (expect_tokenizer, begin):
        with pytest.raises(JournalError, match=complaint):
            refused(tmp_path, ANOTHER)
    assert len(numbers(tmp_path)) == 2


def test_an_older_journal_says_nothing_and_goes_on_so(tmp_path: Path) -> None:
    begin(tmp_path, None)
    assert read_header(tmp_path) is None
    expect_tokenizer(tmp_path, OURS)
    # Of what is in it already nobody knows.
    begin(tmp_path, OURS)
    assert read_header(tmp_path) is None


def test_token_ids_beyond_the_vocabulary_are_corrupt(tmp_path: Path) -> None:
    begin(tmp_path, JournalHeader(vocab_size=2, tokenizer=""))
    with pytest.raises(JournalError, match=r"at offset 16: expected a tree, got .*token_ids in \[0, 2\)"):
        numbers(tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "can't read .*journal.json"),
        ("{}", "can't read .*journal.json: .*vocab_size"),
        ('{"vocab_size": -1, "tokenizer": ""}', "can't read"),
        ('{"vocab_size": 1, "tokenizer": "", "protocol": 99}', "at most protocol .*, got 99"),
    ],
)
def test_a_header_that_can_not_be_understood(tmp_path: Path, content: str, complaint: str) -> None:
    write(tmp_path, deliveries(1))
    (tmp_path / "journal.json").write_text(content)
    with pytest.raises(JournalError, match=complaint):
        numbers(tmp_path)


def folder_with(path: Path, tokenizer: Any, **how: Any) -> Path:
    path.mkdir()
    (path / "tokenizer.json").write_text(json.dumps(tokenizer, **how))
    return path


def test_a_fingerprint_is_of_what_the_ids_stand_for(tmp_path: Path) -> None:
    vocab = {"a": 0, "b": 1, "ab": 2}
    bpe = {"model": {"type": "BPE", "vocab": vocab, "merges": ["a b"]}, "added_tokens": []}
    plain = tokenizer_fingerprint(folder_with(tmp_path / "plain", bpe))
    turned = bpe | {"model": bpe["model"] | {"vocab": dict(reversed(vocab.items()))}}  # type: ignore[operator]
    assert tokenizer_fingerprint(folder_with(tmp_path / "written otherwise", turned, indent=2)) == plain
    unigram = {"model": {"type": "Unigram", "vocab": [["a", 0.0], ["b", -1.0], ["ab", -2.0]]}}
    assert tokenizer_fingerprint(folder_with(tmp_path / "list", unigram)) == plain
    others = [
        bpe | {"added_tokens": [{"id": 3, "content": "<end>"}]},
        {"model": {"vocab": {"b": 0, "a": 1, "ab": 2}}},
    ]
    found = {tokenizer_fingerprint(folder_with(tmp_path / str(n), t)) for n, t in enumerate(others)}
    assert len(found | {plain}) == 3


@pytest.mark.parametrize(
    "tokenizer", [[], {}, {"model": {}}, {"model": {"vocab": 3}}, {"model": {"vocab": [1]}}]
)
def test_no_tokenizer_has_no_fingerprint(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(ModelFolderError, match="expected a tokenizer in"):
        tokenizer_fingerprint(folder_with(tmp_path / "model", tokenizer))
    with pytest.raises(ModelFolderError, match="No such file"):
        tokenizer_fingerprint(tmp_path / "none")


def test_the_header_of_a_model_folder(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "model", {"model": {"vocab": {"a": 0}}})
    assert header_of(folder, 7) == JournalHeader(vocab_size=7, tokenizer=tokenizer_fingerprint(folder))
    assert header_of(tmp_path, 7) is None
