"""The text of each token: together they are the text, and no character is said twice."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from trieline.actors.endpoint_policy import ASSISTANT, END, bytes_shown
from trieline.launcher.token_texts import bytes_texts, tokenizer_texts
from trieline.learner.model_folder.model_source import prepare_model
from trieline.wire.errors import ModelFolderError
from trieline.wire.model_folder import tokenizer_folder

TEXT = "Näh 🦕 中\n  f(x) = 1 </script> e\u0301"


@pytest.fixture(scope="module")
def folder() -> Path:
    prepare_model("builtin:tiny")
    return tokenizer_folder("builtin:tiny")


def test_a_tokenizers_texts_together_are_what_it_decodes(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    whole = tokenizer_texts(folder)([], ids)
    assert "".join(whole) == TEXT
    for cut in range(len(ids) + 1):
        parts = tokenizer_texts(folder)([], ids[:cut]) + tokenizer_texts(folder)(ids[:cut], ids[cut:])
        assert len(parts) == len(ids)
        assert parts[-1] == whole[-1] or cut == len(ids)


def test_bytes_and_marks_are_told_apart() -> None:
    ids = [ASSISTANT, *TEXT.encode(), END, 0xF0, 0x9F, END, 0xFF]
    texts = bytes_texts([], ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == bytes_shown(ids)
    assert bytes_texts([], []) == []


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelFolderError, match=r"expected a tokenizer in .*tokenizer\.json"):
        tokenizer_texts(tmp_path)
