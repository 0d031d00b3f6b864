"""Under bubblewrap nothing is in sight that a program could cheat with, wherever Trieline is installed."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.envs.sandbox.conftest import LIMITS, need
from tests.envs.sandbox.prefixes import install_trieline, make_prefix, make_root
from tests.envs.sandbox.programs import said
from trieline.envs.errors import SandboxError
from trieline.envs.sandbox import SandboxLimits, SandboxSpec
from trieline.envs.sandbox.bubblewrap import BubblewrapSandbox

FIND_PACKAGES = """
import glob, os, sys
for prefix in {sys.prefix, "/usr", "/usr/local"}:
    for packages in glob.glob(prefix + "/lib*/python*/*-packages"):
        sys.path.append(packages)
        if os.listdir(packages): print(packages)
for top, folders, files in os.walk("/"):
    if top == "/": folders.remove("proc")
    if "trieline" in folders + files or "hidden_tests.py" in files: print(top)
try: import trieline.envs.code.templates; print("imported")
except ImportError: print("none", sys.version_info >= (3, 9))
"""
OWNER = f"""
import sys
from pathlib import Path
from trieline.envs.sandbox import SandboxLimits, host_view
from trieline.envs.sandbox.bubblewrap import BubblewrapSandbox
host_view.SYSTEM_PREFIXES = tuple(map(Path, sys.argv[1:]))
import trieline.envs.code.hidden_tests
with BubblewrapSandbox(SandboxLimits(wall_seconds=60)) as sandbox:
    done = sandbox.exec(["python3", "-I", "-S", "-c", {FIND_PACKAGES!r}])
    print(done.stdout.decode() + done.stderr.decode(), file=sys.stderr)
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount over /usr")


@pytest.fixture(autouse=True)
def _need() -> None:
    need("bubblewrap")


def found(python: Path, *prefixes: str, mounts: tuple[tuple[Path, str], ...] = ()) -> str:
    """What a program sees of the packages of `python`, which has Trieline, with some folders mounted over."""
    command = [str(python), "-c", OWNER, *prefixes]
    if mounts:
        script = "".join(f'mount --bind "{source}" {target} && ' for source, target in mounts)
        command = ["unshare", "--mount", "sh", "-c", f'{script} exec "$@"', "sh", *command]
    # No PYTHONPATH, nor the checkout as working directory: what is imported is what is installed.
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd="/",
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.strip()


def test_beside_an_interpreter_in_a_prefix_of_its_own(tmp_path: Path) -> None:
    python = make_prefix(tmp_path / "prefix")
    # Where conda keeps what it has unpacked, and its other environments.
    install_trieline(tmp_path / "prefix/pkgs/trieline-1/site-packages")
    install_trieline(tmp_path / "prefix/envs/other/lib/python3.99/site-packages")
    assert found(python) == "none True"


@as_root
@pytest.mark.parametrize(
    "prefixes", [("/usr/local",), ("/usr", "/usr/local")], ids=["only it", "beside /usr"]
)
def test_in_usr_local(tmp_path: Path, prefixes: tuple[str, ...]) -> None:
    python = make_prefix(tmp_path / "local")
    at = Path("/usr/local/bin", python.name)
    assert found(at, *prefixes, mounts=((tmp_path / "local", "/usr/local"),)) == "none True"


@as_root
@pytest.mark.skipif(not Path("/usr/lib/python3/dist-packages").is_dir(), reason="not Debian")
def test_among_the_packages_of_debian(tmp_path: Path) -> None:
    install_trieline(tmp_path)
    mounts = ((tmp_path, "/usr/lib/python3/dist-packages"),)
    assert found(Path("/usr/bin/python3"), "/usr", mounts=mounts) == "none True"


@as_root
def test_in_a_folder_of_usr_that_is_imported_from(tmp_path: Path) -> None:
    python = make_prefix(tmp_path / "prefix")
    (tmp_path / "share").mkdir()
    for entry in Path("/usr/share").iterdir():
        (tmp_path / "share" / entry.name).mkdir()
    app = tmp_path / "share" / "app"
    install_trieline(app)
    (tmp_path / "prefix/lib" / python.name / "site-packages/app.pth").write_text("/usr/share/app\n")
    assert found(python, "/usr", mounts=((tmp_path / "share", "/usr/share"),)) == "none True"


def test_here() -> None:
    with BubblewrapSandbox(SandboxLimits(wall_seconds=60)) as sandbox:
        assert said(sandbox, FIND_PACKAGES) == "none True"


def test_a_prepared_folder_is_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_root(root)
    (root / "data").mkdir()
    (root / "data" / "file").write_text("prepared")
    spec = SandboxSpec(folder=str(root), workdir="/testbed", environment=(("PATH", "/usr/bin"),))
    code = "import os; print(sorted(os.listdir('/')), open('/data/file').read(), os.getcwd())"
    with BubblewrapSandbox(LIMITS, spec) as sandbox:
        assert said(sandbox, code).endswith("prepared /testbed")
        assert "'etc'" not in said(sandbox, code)
        assert sandbox.exec(["sh"]).exit_code == 127
        planted = "for n in ('/x', '/data/x', '/usr/x'):\n try: open(n, 'w')\n except OSError: print('no')"
        assert said(sandbox, planted).split() == ["no"] * 3


def test_a_folder_without_python_is_an_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(SandboxError, match=r"python3|absent"):
            BubblewrapSandbox(LIMITS, SandboxSpec(folder=str(folder))).start()
