"""An edit is made if it can mean one thing only."""

import errno
import os

import pytest

from trieline.envs.swe.edits import edit_file
from trieline.envs.swe.replies import Edit

TEXT = "a = 1\nb = 1\r\nç = 2\n"


class Files(dict[str, bytes]):
    """In memory."""

    def read(self, path: str) -> bytes:
        if path not in self:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self[path]

    def write(self, path: str, data: bytes) -> None:
        if path.startswith("/"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        self[path] = data


@pytest.mark.parametrize(
    ("path", "search", "replace", "said", "changed"),
    [
        ("f", "ç = 2", "c = 3", "f: the text in line 3 was replaced.", "a = 1\nb = 1\r\nc = 3\n"),
        ("f", "a = 1\nb", "b", "f: the text in line 1 was replaced.", "b = 1\r\nç = 2\n"),
        ("f", "d", "e", "f: expected the text exactly once, found it nowhere. Nothing was changed.", TEXT),
        ("f", "= 1", "", "found it 2 times, in the lines 1, 2. Nothing was changed.", TEXT),
        ("f", "", "x", "f: expected a text to look for, as the file is there, got none.", TEXT),
        ("g", "a", "b", "g: No such file or directory. Nothing was changed.", TEXT),
        ("/g", "", "b", "/g: Permission denied. Nothing was changed.", TEXT),
        ("z", "a", "b", "z: expected a text in UTF-8, got something else. Nothing was changed.", TEXT),
        ("y", "aa", "b", "found it 11 times, in the lines 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 and more.", TEXT),
    ],
)
def test_edits(path: str, search: str, replace: str, said: str, changed: str) -> None:
    files = Files(f=TEXT.encode(), z=b"\xff", y=b"a" * 100)
    assert said in edit_file(files, Edit(path=path, search=search, replace=replace))
    assert files["f"].decode() == changed
    assert files.keys() == {"f", "z", "y"}


def test_an_empty_search_makes_a_file() -> None:
    files = Files()
    assert edit_file(files, Edit(path="g/h", search="", replace="x\ny")) == "g/h: it was made."
    assert files == {"g/h": b"x\ny\n"}
