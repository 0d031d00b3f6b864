"""Where a model's files are: a folder of the user's, a hub name, or a built-in model in the cache."""

import os
from pathlib import Path

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
