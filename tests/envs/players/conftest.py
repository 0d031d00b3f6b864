from tests.actors.conftest import chat_folder, renderer

__all__ = ["chat_folder", "renderer"]
