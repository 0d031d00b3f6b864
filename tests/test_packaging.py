"""What others install: a wheel that holds the whole package alone, and trains where no checkout is."""

import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import trieline

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "trieline"
# As `python -m build` does: the source distribution out of the tree, the wheel out of that.
SDIST = "from setuptools import build_meta; print(build_meta.build_sdist({to!r}))"
WHEEL = "from setuptools import build_meta; print(build_meta.build_wheel({to!r}))"
BUILD_FILES = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "constraints.txt")
TINY = [
    "learner.steps=2",
    "learner.trees_per_step=4",
    "learner.fill_batches=8.0",
    "learner.warm_start.target=0.02",
    "learner.warm_start.evaluate_every=10",
    "evaluation.episodes=4",
]


def built(code: str, *, source: Path, to: Path) -> Path:
    command = [sys.executable, "-c", code.format(to=str(to))]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return to / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Of a copy: setuptools writes beside what it reads.
    source = tmp_path_factory.mktemp("source")
    for name in BUILD_FILES:
        (source / name).write_bytes((ROOT / name).read_bytes())
    for path, name in package_files().items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(path.read_bytes())
        (source / name).chmod(path.stat().st_mode)
    return built(SDIST, source=source, to=tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as tar:
        tar.extractall(source, filter="data")
    return built(WHEEL, source=next(source.iterdir()), to=tmp_path_factory.mktemp("wheel"))


def package_files() -> dict[Path, str]:
    """Where they lie, and what they are called from the root of the tree."""
    return {
        path: str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        modes = {entry.filename: entry.external_attr >> 16 for entry in archive.infolist()}
        about = f"trieline-{trieline.__version__}.dist-info"
        metadata = archive.read(f"{about}/METADATA")
        scripts = archive.read(f"{about}/entry_points.txt")
    assert names == set(package_files().values())
    assert "trieline/py.typed" in names
    assert all(modes[name] & 0o111 for name in names if name.endswith(".sh")), "a script that can't be run"
    assert b"\nLicense-Expression: Apache-2.0\n" in metadata
    assert f"\nVersion: {trieline.__version__}\n".encode() in metadata
    assert b"trieline = trieline.command_line:main" in scripts


def test_the_source_distribution_holds_what_the_wheel_is_made_of(sdist: Path) -> None:
    with tarfile.open(sdist) as tar:
        names = {member.name.partition("/")[2] for member in tar if member.isfile()}
    assert set(package_files().values()) | set(BUILD_FILES) <= names
    assert not [name for name in names if name.startswith("tests/")]


@pytest.mark.long
@pytest.mark.end_to_end
@pytest.mark.timeout(1200)
def test_an_installed_wheel_trains_where_no_checkout_is(wheel: Path, tmp_path: Path) -> None:
    venv, work = tmp_path / "venv", tmp_path / "work"
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(Path.home())}
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin/python")]
    subprocess.run([*pip, "install", "--no-index", "--no-deps", wheel], check=True, env=environment)
    (site_packages,) = venv.glob("lib/python*/site-packages")
    # Its dependencies are those of this interpreter, whose editable installs don't come with the folder.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    work.mkdir()

    def run(*command: str) -> str:
        done = subprocess.run(
            [venv / "bin" / command[0], *command[1:]],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert run("python", "-c", "import trieline; print(trieline.__file__)").startswith(str(venv))
    assert "learner: torch" in run("trieline", "check", "--config", "tiny")
    run("trieline", "envs", "new", "my_env")
    assert (work / "my_env/train.toml").is_file()
    settings = [part for setting in TINY for part in ("--set", setting)]
    assert "step 2/2" in run("trieline", "train", "--config", "tiny", *settings)
    assert next(work.glob("runs/tiny-*/report.md")).is_file()
