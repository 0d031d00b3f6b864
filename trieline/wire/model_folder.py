"""Where a model's files are: a folder of the user's, a hub name, or a built-in model in the cache."""

import functools
import logging
import os
import tempfile
from pathlib import Path

from trieline.common.folders import can_be_written, make_private
from trieline.wire.errors import ModelFolderError

log = logging.getLogger(__name__)

BUILTIN_PREFIX = "builtin:"


def cache_folder() -> Path:
    """Trieline's folder in the user's cache (`TRIELINE_CACHE`, else `XDG_CACHE_HOME`, else `~/.cache`).

    Where that can't be written, as in read-only containers, it is a private one beside the temporary files.

    Raises:
        ModelFolderError: there, too, is none that this user alone can write.
    """
    folder = _users_cache()
    if folder is not None and (os.environ.get("TRIELINE_CACHE") or can_be_written(folder)):
        return folder
    place = folder or "a folder in the user's home"
    instead = Path(tempfile.gettempdir()) / f"trieline-cache-{os.geteuid()}"
    _say_once(f"{place} can't be written: models are kept in {instead}; TRIELINE_CACHE names another place")
    try:
        make_private(instead)
    except OSError as error:
        msg = f"can't keep models in {place}, nor in {instead}: {error.strerror}; set TRIELINE_CACHE"
        raise ModelFolderError(msg) from error
    return instead


def builtin_folder(name: str) -> Path:
    """Where the built-in model `name` (without the prefix) is kept once it has been prepared."""
    users = _users_cache()
    # A read-only one may hold it already.
    if users is not None and os.access(users / "models" / name / "tokenizer.json", os.R_OK):
        return users / "models" / name
    return cache_folder() / "models" / name


def _users_cache() -> Path | None:
    """None: the user has no home."""
    if chosen := os.environ.get("TRIELINE_CACHE"):
        return Path(chosen)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "trieline"
    try:
        return Path.home() / ".cache" / "trieline"
    except RuntimeError:
        return None


@functools.cache
def _say_once(message: str) -> None:
    log.warning(message)


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
