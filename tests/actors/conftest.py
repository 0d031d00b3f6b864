from pathlib import Path

import pytest

from tests.actors.chat_folder import write_chat_folder
from trieline.actors.chat import ChatRenderer


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def renderer(chat_folder: Path) -> ChatRenderer:
    return ChatRenderer(chat_folder)
