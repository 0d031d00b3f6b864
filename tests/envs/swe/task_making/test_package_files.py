"""Archives of strangers: what is one is unpacked, what means harm is refused by name, and nothing is run."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from trieline.envs.errors import DataError
from trieline.envs.swe.task_making.package_files import compile_all, unpack_sdist, unpack_wheel


def sdist(path: Path, *members: tarfile.TarInfo, data: bytes = b"x = 1\n") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            member.size = len(data) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def test_a_source_distribution(tmp_path: Path) -> None:
    packed = sdist(tmp_path / "a-1.tar.gz", entry("a-1/setup.py"), entry("a-1/a.py"))
    top = unpack_sdist(packed, empty(tmp_path))
    assert top.name == "a-1"
    assert (top / "a.py").read_bytes() == b"x = 1\n"


def empty(tmp_path: Path) -> Path:
    folder = tmp_path / "unpacked"
    folder.mkdir()
    return folder


UNSAFE: dict[str, Callable[[Path], Path]] = {
    "leaves by ..": lambda path: sdist(path, entry("a-1/../../evil.py")),
    "absolute": lambda path: sdist(path, entry("/tmp/evil.py")),
    "a link out": lambda path: sdist(path, entry("a-1/l", tarfile.SYMTYPE, "/etc/passwd")),
    "through a link": lambda path: sdist(path, entry("a-1/l", tarfile.SYMTYPE, "b"), entry("a-1/l/x.py")),
    "a hard link": lambda path: sdist(path, entry("a-1/a"), entry("a-1/l", tarfile.LNKTYPE, "a-1/a")),
    "a device": lambda path: sdist(path, entry("a-1/null", tarfile.CHRTYPE)),
    "a git folder": lambda path: sdist(path, entry("a-1/.git/hooks/post-checkout")),
    "a git folder, spelled otherwise": lambda path: sdist(path, entry("a-1/sub/.GIT/config")),
    "two folders": lambda path: sdist(path, entry("a-1/a.py"), entry("b-1/a.py")),
    "a file at the top": lambda path: sdist(path, entry("a.py")),
    "no tar": lambda path: _written(path, gzip.compress(b"hello" * 1000)),
    "no gzip": lambda path: _written(path, b"hello"),
    "cut off": lambda path: _written(path, sdist(path, entry("a-1/a.py")).read_bytes()[:-20]),
    "nothing": lambda path: sdist(path),
}


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_source_distributions_are_refused(name: str, tmp_path: Path) -> None:
    packed = UNSAFE[name](tmp_path / "a-1.tar.gz")
    with pytest.raises(DataError, match=r"a-1\.tar\.gz: expected"):
        unpack_sdist(packed, empty(tmp_path))
    assert not list(tmp_path.rglob("evil.py"))


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trieline.envs.swe.task_making.package_files.MOST_BYTES", 10_000)
    packed = sdist(tmp_path / "a-1.tar.gz", entry("a-1/zeros"), data=bytes(100_000))
    with pytest.raises(DataError, match="at most"):
        unpack_sdist(packed, empty(tmp_path))
    with zipfile.ZipFile(tmp_path / "a-1-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("a.py", bytes(100_000))
    with pytest.raises(DataError, match="at most"):
        unpack_wheel(tmp_path / "a-1-py3-none-any.whl", tmp_path / "packages")


def test_a_wheel_is_compiled_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("a/__init__.py", "raise SystemExit\n")
        wheel.writestr("a-1.dist-info/METADATA", "Name: a\n")
    unpack_wheel(path, tmp_path / "packages")
    compile_all(tmp_path / "packages")
    assert (tmp_path / "packages/a-1.dist-info/METADATA").exists()
    assert list((tmp_path / "packages/a/__pycache__").iterdir())


@pytest.mark.parametrize("name", ["../evil.py", "/tmp/evil.py", "a/_fast.cpython-311.so", ".git/config"])
def test_unsafe_wheels_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(name, "x")
    with pytest.raises(DataError, match="expected a wheel of pure Python: expected"):
        unpack_wheel(path, tmp_path / "packages")
