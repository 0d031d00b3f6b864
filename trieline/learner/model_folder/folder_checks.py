"""What a model folder must hold to be trained and served: looked at before anything heavy is loaded."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trieline.learner.errors import ModelSourceError

POINTER = b"version https://git-lfs"
"""How the small file begins that stands for a large one in a Git checkout without its large files."""
INDEX = "model.safetensors.index.json"


def check_model_folder(folder: Path) -> None:
    """Raise ModelSourceError, naming everything that `folder` lacks, or what of it can't be used."""
    lacks = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    lacks += _missing_weights(folder)
    if not _has_chat_template(folder):
        lacks.append("a chat template (chat_template.jinja, or chat_template in tokenizer_config.json)")
    if lacks:
        msg = f"the model folder {folder} lacks {'; '.join(lacks)}"
        raise ModelSourceError(msg)
    for path in _weight_files(folder):
        _expect_safetensors(path)
    _expect_tokens_within(folder)


def read_json(path: Path) -> Any:
    """A JSON file of a model folder. Raises ModelSourceError, in one line, for what is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        msg = f"can't read {path}: {error.strerror}"
        raise ModelSourceError(msg) from error
    if data.startswith(POINTER):
        raise _pointer(path)
    try:
        return json.loads(data)
    except ValueError as error:
        msg = f"expected JSON in {path}, got: {error}"
        raise ModelSourceError(msg) from error


def _missing_weights(folder: Path) -> list[str]:
    if (folder / "model.safetensors").is_file():
        return []
    if not (folder / INDEX).is_file():
        hint = " (.bin files are not read: save it as safetensors)" if any(folder.glob("*.bin")) else ""
        return [f"model.safetensors or {INDEX}{hint}"]
    return sorted(name for name in _shards(folder) if not (folder / name).is_file())


def _shards(folder: Path) -> set[str]:
    """The files that the index names: safetensors beside it, nothing else is ever opened."""
    index = read_json(folder / INDEX)
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not names:
        msg = f"expected weight_map (tensor: file) in {folder / INDEX}, found none"
        raise ModelSourceError(msg)
    for name in names.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            msg = f"expected safetensors files beside it in {folder / INDEX}, got {name!r:.80}"
            raise ModelSourceError(msg)
    return set(names.values())


def _weight_files(folder: Path) -> Iterator[Path]:
    if (folder / "model.safetensors").is_file():
        yield folder / "model.safetensors"
    else:
        yield from (folder / name for name in sorted(_shards(folder)))


def _expect_safetensors(path: Path) -> None:
    """Reads the header alone, which says how long the file must be."""
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise _pointer(path)
    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        msg = f"{path} is cut off or no safetensors file: {error}"
        raise ModelSourceError(msg) from error


def _pointer(path: Path) -> ModelSourceError:
    return ModelSourceError(f"{path} is a Git LFS pointer, not the file itself: run git lfs pull there")


def _expect_tokens_within(folder: Path) -> None:
    """Every token of the tokenizer needs a row of the embedding."""
    from tokenizers import Tokenizer

    rows = configured_vocab_size(folder)
    path = folder / "tokenizer.json"
    read_json(path)
    try:
        tokens: dict[str, int] = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:  # what the library raises has no narrower type
        msg = f"expected a tokenizer in {path}, got: {error}"
        raise ModelSourceError(msg) from error
    token, last = max(tokens.items(), key=lambda item: item[1])
    if rows is not None and last >= rows:
        msg = f"{folder}: token {token!r} has id {last}, the model has {rows} rows (vocab_size)"
        raise ModelSourceError(msg)


def configured_vocab_size(folder: Path) -> int | None:
    """Rows of the text model's embedding by `config.json`; None: it does not say. Raises ModelSourceError."""
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        return None
    text = config.get("text_config", config)
    size = text.get("vocab_size", config.get("vocab_size")) if isinstance(text, dict) else None
    return size if isinstance(size, int) else None


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    path = folder / "tokenizer_config.json"
    config = read_json(path) if path.is_file() else {}
    return bool(isinstance(config, dict) and config.get("chat_template"))
