"""Where models are kept when the user's own cache can't be written."""

import tempfile
from pathlib import Path

import pytest

from trieline.wire.errors import ModelFolderError
from trieline.wire.model_folder import builtin_folder, cache_folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("TRIELINE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Also root can make no folder in a file.
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))


def test_the_cache_is_the_users(temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "trieline"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "trieline"
    monkeypatch.setenv("TRIELINE_CACHE", "/dev/null/chosen")
    assert cache_folder() == Path("/dev/null/chosen")


@pytest.mark.usefixtures("no_home")
def test_without_a_home_it_is_a_private_folder_and_said_once(
    temporary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        folder = cache_folder()
    assert folder.parent == temporary
    assert folder.stat().st_mode & 0o777 == 0o700
    assert builtin_folder("tiny") == folder / "models" / "tiny"
    (said,) = caplog.messages
    assert "file/.cache/trieline can't be written" in said
    assert str(folder) in said


def test_a_user_whom_the_machine_does_not_know_has_no_home(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", unknown)
    assert cache_folder().parent == temporary


@pytest.mark.usefixtures("no_home")
def test_a_folder_that_others_can_write_is_refused(temporary: Path) -> None:
    folder = cache_folder()
    folder.chmod(0o777)
    with pytest.raises(ModelFolderError, match=r"expected a folder of user .* mode 700; set TRIELINE_CACHE"):
        cache_folder()
    folder.rmdir()
    folder.symlink_to(temporary)
    with pytest.raises(ModelFolderError, match="set TRIELINE_CACHE"):
        cache_folder()


def test_what_a_cache_holds_is_used_though_it_can_not_be_written(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    model = tmp_path / ".cache" / "trieline" / "models" / "tiny"
    model.mkdir(parents=True)
    (model / "tokenizer.json").write_text("{}")
    monkeypatch.setattr("trieline.wire.model_folder.can_be_written", lambda folder: False)
    assert builtin_folder("tiny") == model
    assert builtin_folder("other").is_relative_to(temporary)
    assert any(temporary.iterdir())
