"""Where a model comes from: whatever `model.path` names ends as one checked Hugging Face folder.

Built-in models are prepared once in the user's cache and appear there by rename, so that a folder that exists
is whole. The weights are safetensors alone: nothing is unpickled.
"""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

from trieline.common.file_lock import file_lock
from trieline.common.folders import replace_folder, scratch_folder
from trieline.learner.errors import ModelSourceError
from trieline.learner.model_folder.folder_checks import check_model_folder
from trieline.wire.model_folder import BUILTIN_PREFIX, builtin_folder

log = logging.getLogger(__name__)

Progress = Callable[[str], None]

# Raised when a builder writes other files than before: folders prepared by an older one are made anew.
BUILD_VERSION = 1
BUILD_RECORD = "trieline_build.json"

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


def prepare_model(path: str, *, progress: Progress = log.info) -> Path:
    """The Hugging Face folder of `path`: a folder, a hub name, or `builtin:...` (fetched or built at need).

    Raises:
        ModelSourceError: there is no such model, or its folder lacks something; the message names what.
    """
    if path.startswith(BUILTIN_PREFIX):
        folder = _prepare_builtin(path.removeprefix(BUILTIN_PREFIX), progress)
    elif Path(path).expanduser().is_dir():
        folder = Path(path).expanduser().resolve()
    elif _HUB_NAME.fullmatch(path):
        folder = _fetch_from_hub(path, progress)
    else:
        msg = f"expected a model folder, a hub name (owner/name) or one of {_builtin_names()}; got {path!r}"
        raise ModelSourceError(msg)
    check_model_folder(folder)
    return folder


def _builders() -> dict[str, Callable[[Path, Progress], None]]:
    return {"smollm2-135m-instruct": _build_smollm2, "tiny": _build_tiny}


def _builtin_names() -> str:
    return ", ".join(BUILTIN_PREFIX + name for name in sorted(_builders()))


def _prepare_builtin(name: str, progress: Progress) -> Path:
    builders = _builders()
    if name not in builders:
        msg = f"expected one of {_builtin_names()}; got {BUILTIN_PREFIX}{name}"
        raise ModelSourceError(msg)
    folder = builtin_folder(name)
    if _is_built(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(folder.with_name(f".{name}.lock"), what=f"to prepare the model {BUILTIN_PREFIX}{name}"):
        if not _is_built(folder):
            _build(folder, builders[name], progress)
    return folder


def _build(folder: Path, builder: Callable[[Path, Progress], None], progress: Progress) -> None:
    with scratch_folder(folder.parent, prefix=f".{folder.name}-") as scratch:
        builder(scratch, progress)
        (scratch / BUILD_RECORD).write_text(json.dumps({"build_version": BUILD_VERSION}))
        replace_folder(scratch, folder)
    progress(f"model ready: {folder}")


def _is_built(folder: Path) -> bool:
    try:
        record = json.loads((folder / BUILD_RECORD).read_text())
    except (OSError, ValueError):
        return False
    return bool(record == {"build_version": BUILD_VERSION})


def _build_tiny(folder: Path, progress: Progress) -> None:
    from trieline.learner.model_folder.tiny_model import save_tiny_model

    progress("building the tiny model")
    save_tiny_model(folder)


def _build_smollm2(folder: Path, progress: Progress) -> None:
    from trieline.learner.model_folder.smollm2 import build_smollm2

    build_smollm2(folder, progress)


def _fetch_from_hub(name: str, progress: Progress) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    progress(f"looking up {name} on the hub")
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        msg = (
            f"could not get the model {name!r}: there is no such folder, and the hub did not give it "
            f"({reason}). Without a network, give a folder or one of {_builtin_names()}"
        )
        raise ModelSourceError(msg) from error
