"""Where a model's files are: a folder of the user's, a hub name, or a built-in model in the cache."""

import os
from pathlib import Path

from trieline.wire.errors import ModelFolderError

BUILTIN_PREFIX = "builtin:"


def cache_folder() -> Path:
    """Trieline's folder in the user's cache (`TRIELINE_CACHE`, else `XDG_CACHE_HOME`, else `~/.cache`)."""
    if chosen := os.environ.get("TRIELINE_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "trieline"


def builtin_folder(name: str) -> Path:
    """Where the built-in model `name` (without the prefix) is kept once it has been prepared."""
    return cache_folder() / "models" / name


def tokenizer_folder(path: str) -> Path:
    """The folder with tokenizer and chat template of `model.path`, for a process that has no torch.

    A built-in model must have been prepared on this machine; of a hub model only the small files are fetched.

    Raises:
        ModelFolderError: there is no such folder here; the message says how to get it.
    """
    if path.startswith(BUILTIN_PREFIX):
        folder = builtin_folder(path.removeprefix(BUILTIN_PREFIX))
        if not (folder / "tokenizer.json").is_file():
            msg = f"expected {path} in {folder}, got no tokenizer.json; make it with: trieline model {path}"
            raise ModelFolderError(msg)
        return folder
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder.resolve()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path, allow_patterns=["*.json", "*.jinja"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        msg = f"expected a model folder, a hub name or a built-in model, got {path!r}: {error}"
        raise ModelFolderError(msg) from None
