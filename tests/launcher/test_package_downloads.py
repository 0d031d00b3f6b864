"""pip as it is set up here, with a folder in place of an index: nothing is run, files are those of a hash."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from trieline.envs.errors import DataError
from trieline.launcher.package_downloads import download, sha256_of

EVIL = "import pathlib\npathlib.Path({path!r}).write_text('it ran')\n"
BACKEND = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def make_sdist(folder: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """A source distribution."""
    top = f"{name}-{version}"
    path = folder / f"{top}.tar.gz"
    info = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with tarfile.open(path, "w:gz") as tar:
        for file, text in {"PKG-INFO": info, **files}.items():
            member = tarfile.TarInfo(f"{top}/{file}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.mark.parametrize("with_backend", [False, True])
def test_nothing_of_a_source_distribution_is_run(index: Path, tmp_path: Path, with_backend: bool) -> None:
    evil = EVIL.format(path=str(tmp_path / "mark"))
    files = {"setup.py": evil, "backend.py": evil, **({"pyproject.toml": BACKEND} if with_backend else {})}
    made = make_sdist(index, "my_package", "1.0", files)
    kept = download("my-package==1.0", "sdist", sha256_of(made), tmp_path / "kept")
    assert kept.read_bytes() == made.read_bytes()
    assert not (tmp_path / "mark").exists()
    made.unlink()
    # What is there is not asked for again, and is looked at all the same.
    assert download("My.Package==1.0", "sdist", sha256_of(kept), tmp_path / "kept") == kept
    with pytest.raises(DataError, match=r"my-package==1\.0: expected a file of SHA-256 0000"):
        download("my-package==1.0", "sdist", "0" * 64, tmp_path / "kept")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [kept.name]


def test_a_wheel_and_what_the_index_lacks(index: Path, tmp_path: Path) -> None:
    info = "Metadata-Version: 2.1\nName: a\nVersion: 2\n"
    made = index / "a-2-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as wheel:
        wheel.writestr("a-2.dist-info/METADATA", info)
        wheel.writestr(
            "a-2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("a-2.dist-info/RECORD", "")
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    assert sha256_of(download("a==2", "wheel", digest, tmp_path / "kept")) == digest
    with pytest.raises(DataError, match="a==3: expected pip to download one wheel, got 0"):
        download("a==3", "wheel", None, tmp_path / "kept")


@pytest.mark.parametrize(
    "requirement", ["a", "a>=1", "--index-url=x", "a==1 --hash=x", "a @ file:///x", "../a==1"]
)
def test_what_is_no_pinned_package_is_refused(requirement: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="name==version"):
        download(requirement, "sdist", None, tmp_path)
