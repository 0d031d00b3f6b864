"""What a spec asks for is there, or is refused by name."""

from dataclasses import fields
from typing import Any

import pytest

from tests.envs.sandbox.conftest import LIMITS, SEALED, as_parameters, need
from tests.envs.sandbox.programs import run_python, said
from trieline.envs.errors import SandboxError
from trieline.envs.sandbox import Sandbox, SandboxSpec, open_sandbox
from trieline.envs.sandbox.backends import Backend

SAMPLES: dict[str, Any] = {
    "image": "trieline/python:1",
    "folder": "/srv/root",
    "workdir": "/testbed",
    "checkout": "/srv/checkout",
    "user": 4321,
    "writable_root": True,
    "environment": (("A", "1"),),
    "shell": ("sh", "-c"),
}
REFUSED: dict[Backend, set[str]] = {
    "docker": {"folder", "checkout"},
    "bubblewrap": {"image", "writable_root"},
    "none": {"image", "folder", "workdir", "checkout", "user", "writable_root"},
}


def opened(backend: Backend, **asked: Any) -> Sandbox:
    need(backend)
    return open_sandbox(backend, LIMITS, SandboxSpec(**asked))


def test_every_field_is_honoured_or_refused() -> None:
    # A new field must be decided about for each backend, here and there.
    assert SAMPLES.keys() == {field.name for field in fields(SandboxSpec)}


@pytest.mark.parametrize("backend", as_parameters([*SEALED, "none"]))
def test_what_can_not_be_honoured_is_refused_by_name(backend: Backend) -> None:
    for field in REFUSED[backend]:
        with pytest.raises(SandboxError, match=rf"{backend} can't honour SandboxSpec.{field} = .+: \w+"):
            opened(backend, **{field: SAMPLES[field]})


@pytest.mark.parametrize("backend", as_parameters([*SEALED, "none"]))
def test_environment_variables_are_added_and_replace_ours(backend: Backend) -> None:
    sandbox = opened(backend, environment=(("GREETING", "a=b c"), ("LANG", "C")))
    try:
        code = "import os; print(os.environ['GREETING'], os.environ['LANG'], sorted(os.environ))"
        expected = "a=b c C ['GREETING', 'HOME', 'LANG', 'PATH', 'TMPDIR']"
        assert said(sandbox, code).replace("'LC_CTYPE', ", "") == expected
    finally:
        sandbox.close()


@pytest.mark.parametrize("backend", as_parameters(SEALED))
def test_the_work_folder_is_where_it_is_asked_for(backend: Backend) -> None:
    sandbox = opened(backend, workdir="/testbed")
    try:
        assert str(sandbox.workdir) == "/testbed"
        sandbox.write("/testbed/folder/file", b"1")
        code = (
            "import os; print(os.getcwd(), os.listdir('.'), os.environ['HOME'], open('folder/file').read())"
        )
        assert said(sandbox, code) == "/testbed ['folder'] /testbed 1"
        with pytest.raises(OSError, match="only files under /testbed"):
            sandbox.read("/work/file")
        copy = sandbox.snapshot().start()
        assert copy.read("/testbed/folder/file") == b"1"
        copy.close()
        sandbox.reset()
        assert said(sandbox, "import os; print(os.listdir('/testbed'))") == "[]"
    finally:
        sandbox.close()


@pytest.mark.parametrize("user", [4321, 0])
@pytest.mark.parametrize("backend", as_parameters(SEALED))
def test_the_user_is_the_one_asked_for_and_has_no_capability(backend: Backend, user: int) -> None:
    sandbox = opened(backend, user=user)
    try:
        code = """
import os
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
sets = {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
open("written", "w")
print(os.getuid(), os.getgid(), sets, os.stat(".").st_uid)
"""
        assert said(sandbox, code) == f"{user} {user} {{0}} {user}"
        hostile = """
import os, signal
for act in (lambda: os.kill(1, 9), lambda: os.kill(-1, 19), lambda: os.chown(".", 1, 1), os.sync,
            lambda: os.setuid(5), lambda: open("/usr/x", "w"), lambda: os.mknod("d", 0o60666, 1)):
    try: act()
    except OSError: pass
for name in ("mem", "maps", "environ", "root/work", "fd/0"):
    try: open(f"/proc/1/{name}", "rb").read(1); print("reached", name)
    except OSError: pass
print(os.path.exists("/usr/x"), os.path.exists("d"))
"""
        assert said(sandbox, hostile) == "False False"
        bomb = "import os, time\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(.01)"
        result = run_python(sandbox, bomb, wall_seconds=1)
        assert result.timed_out or result.oom
        sandbox.reset()
        assert said(sandbox, "import os; print(os.listdir('.'))") == "[]"
    finally:
        sandbox.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("workdir", "testbed"),
        ("workdir", "/"),
        ("workdir", "/a/../b"),
        ("workdir", "/a/"),
        ("workdir", ""),
        ("folder", "root"),
        ("checkout", "../repository"),
        ("user", -1),
        ("user", 65_534),
        ("environment", (("A=B", "1"),)),
        ("environment", (("", "1"),)),
        ("environment", (("A", "\0"),)),
    ],
)
def test_what_no_sandbox_could_be_is_refused_at_once(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        SandboxSpec(**{field: value})
