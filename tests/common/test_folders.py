import os
from pathlib import Path

import pytest

from trieline.common.folders import can_be_written, make_private, whole_file, write_whole


def test_what_is_not_there_can_be_written_if_it_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    assert can_be_written(tmp_path)
    assert can_be_written(tmp_path / "new" / "newer")
    assert not can_be_written(tmp_path / "file")
    assert not can_be_written(tmp_path / "file" / "new")
    assert not can_be_written(tmp_path / "nowhere")
    assert not (tmp_path / "new").exists()


def test_a_relative_folder_is_one_below_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert can_be_written(Path("runs"))
    assert not can_be_written(Path("file/runs"))


def test_what_the_system_refuses_can_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a read-only file system, where also root is refused.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert not can_be_written(tmp_path)


def test_a_private_folder_is_made_or_believed_if_it_is_one(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    make_private(folder)
    make_private(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o750)
    with pytest.raises(PermissionError, match="expected a folder of user"):
        make_private(folder)


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_somebody_put_in_its_place_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "target").mkdir(mode=0o700)
    place = tmp_path / "own"
    if kind == "link":
        place.symlink_to(tmp_path / "target")
    else:
        place.touch(mode=0o600)
    with pytest.raises(PermissionError, match="expected a folder of user"):
        make_private(place)


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_whole(path, b"first")
    (tmp_path / ".file.json.new").write_bytes(b"left by a process that was killed")
    write_whole(path, b"second")
    with pytest.raises(UnicodeEncodeError), whole_file(path) as scratch:
        scratch.write_text("third \ud800", encoding="utf-8")
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]
