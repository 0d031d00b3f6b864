"""Models that several cases share, and a read-only machine."""

import os
from pathlib import Path
from typing import NoReturn

import pytest

from tests.cases.model_folders import make_model
from trieline.wire.model_folder import builtin_folder

SMOLLM2 = "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def trims(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose template trims contents, as those of Llama 3 and Gemma do."""
    return make_model("trim", tmp_path_factory.mktemp("models") / "trims")


@pytest.fixture(params=["tiny with SmolLM2's marks", "SmolLM2"])
def smollm2(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """SmolLM2's chat template and special tokens on a small tokenizer; itself too, if it has been fetched."""
    if request.param != "SmolLM2":
        return make_model("smollm2", tmp_path / "smollm2")
    folder = builtin_folder(SMOLLM2)
    if not (folder / "tokenizer.json").is_file():
        pytest.skip(f"not on this machine: trieline model builtin:{SMOLLM2}")
    return folder


def not_here(reason: str) -> NoReturn:
    """Skip, or in CI fail."""
    if os.environ.get("CI"):
        pytest.fail(f"must be there in CI: {reason}")
    pytest.skip(reason)
