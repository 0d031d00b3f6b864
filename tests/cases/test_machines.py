"""Machines on which little can be written or used, and odd names: regressions of commands there."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import which

import numpy as np
import pytest

from tests.cases.commands import DEADLINE_S, INPUTS, ONE_ENV, ROOT, run_of, settings, steps_of, trieline
from tests.cases.conftest import not_here
from tests.cases.model_folders import make_model
from trieline.wire.config import LinksConfig
from trieline.wire.generate_link import PolicyClient
from trieline.wire.messages import Completion, Sampling

# Kernels are compiled first.
ANSWER_S = 120.0
CACHES = ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "TRIELINE_CACHE")
GROUPS = Path("/sys/fs/cgroup")


def read_only_but(writable: Path) -> list[str]:
    """What comes before a command that may write into `writable` alone, as in a read-only container."""
    if which("bwrap") is None:
        not_here("bubblewrap (scripts/ensure_sandbox.sh installs it)")
    return [
        *("bwrap", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"),
        *("--bind", str(writable), str(writable), "--setenv", "TMPDIR", str(writable)),
        *("--setenv", "HOME", "/nonexistent", *(word for name in CACHES for word in ("--unsetenv", name))),
        *("--chdir", str(writable), "--"),
    ]


def test_27_readonly_kernels(trims: Path, tmp_path: Path) -> None:
    links = LinksConfig(
        generate=f"ipc://{tmp_path}/generate", weights_fetch=f"ipc://{tmp_path}/weights", heartbeat_s=0.2
    )
    chosen = settings(
        envs__0__id="trieline/Arithmetic-v0",
        model__path=trims,
        links__generate=links.generate,
        links__weights_fetch=links.weights_fetch,
        links__heartbeat_s=links.heartbeat_s,
    )
    command = [*read_only_but(tmp_path), sys.executable, "-m", "trieline"]
    command += ["policy-server", "--config", str(ONE_ENV), *chosen]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as server:
        try:
            completion = asyncio.run(complete(links))
        finally:
            server.terminate()
            _, errors = server.communicate(timeout=DEADLINE_S)
    assert len(completion.token_ids) > 0
    assert "compiled kernels are kept nowhere" in errors
    assert "Traceback" not in errors


async def complete(links: LinksConfig) -> Completion:
    client = PolicyClient(links)
    await client.start()
    try:
        prompt = np.arange(65, 75, dtype=np.int32)
        return await client.generate(prompt, Sampling(max_tokens=4), timeout_s=ANSWER_S)
    finally:
        await client.close()


def test_28_readonly_run_folder(trims: Path, tmp_path: Path) -> None:
    within = read_only_but(tmp_path)
    runs = settings(run__folder="/etc/runs")
    ran = trieline("check", "--config", "tiny", *runs, cwd=tmp_path, within=within).expect(1)
    assert "/etc/runs can't be written" in ran.said
    command = ["sft", str(INPUTS / "12_sft_remainder.jsonl"), *settings(model__path=trims), *runs]
    ran = trieline(*command, cwd=tmp_path, within=within).expect(2)
    assert ran.err.splitlines()[-1].startswith(
        "trieline sft: run.folder: /etc/runs can't be written: Read-only"
    )


@contextmanager
def control_group(limits: dict[str, dict[str, str]]) -> Iterator[list[str]]:
    """What comes before a command that has these limits: for each controller, what its files are to say.

    Controllers of version 1 have a folder each, those of version 2 share one, and each has the files that it
    knows. Making groups takes root.
    """
    name = f"trieline-case-{os.getpid()}"
    groups = {c: (GROUPS / c if (GROUPS / c).is_dir() else GROUPS) / name for c in limits}
    with ExitStack() as made:
        try:
            for group in set(groups.values()):
                group.mkdir()
                made.callback(group.rmdir)
            for controller, files in limits.items():
                known = [file for file in files if (groups[controller] / file).exists()]
                if not known:
                    not_here(f"{groups[controller]} has none of {', '.join(files)}")
                for file in known:
                    (groups[controller] / file).write_text(files[file])
        except OSError as error:
            not_here(f"no control group can be made here: {error}")
        members = " ".join(str(group / "cgroup.procs") for group in set(groups.values()))
        yield ["sh", "-c", f'for group in {members}; do echo $$ > "$group"; done; exec "$@"', "sh"]


def test_30_check_control_group(tmp_path: Path) -> None:
    two_gib = str(2 * 2**30)
    limits = {
        "memory": {"memory.limit_in_bytes": two_gib, "memory.max": two_gib},
        "cpu": {"cpu.cfs_quota_us": "50000", "cpu.max": "50000 100000"},
    }
    with control_group(limits) as within:
        ran = trieline("check", "--config", "tiny", cwd=tmp_path, within=within).expect(0)
    assert f"WARN cores: 0.5 (of {os.cpu_count()})" in ran.said
    assert "WARN memory: 2.0 GiB (of " in ran.said


def test_31_markup_in_path(tmp_path: Path) -> None:
    model = make_model("trim", tmp_path / "m [new]")
    chosen = settings(model__path=model.name, run__folder="runs [old]")
    ran = trieline("sft", str(INPUTS / "12_sft_remainder.jsonl"), *chosen, cwd=tmp_path).expect(0)
    folder = run_of(ran)
    assert folder.path.parent == tmp_path / "runs [old]"
    assert len(steps_of(folder)) == 2
    assert f"model: {model} in " in ran.out


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (f"ipc:///var/tmp/{'a' * 120}", "at most 107 bytes"),
        ("ipc:///nosuchfolder/s", "expected a folder at /nosuchfolder, found none"),
        ("tcp://0.0.0.0:7701", "found none: `trieline keys new --keys none` makes them"),
        ("http://127.0.0.1:7701", "expected an address like"),
    ],
    ids=["long", "no folder", "every interface", "no transport"],
)
def test_36_check_addresses(address: str, reason: str, tmp_path: Path) -> None:
    chosen = ["--config", "tiny", *settings(links__weights_fetch=address, links__keys="none")]
    ran = trieline("check", *chosen, cwd=tmp_path).expect(1)
    assert f"FAIL links.weights_fetch: can't bind {address}: " in ran.said
    assert reason in ran.said
    ended = trieline("train", *chosen, cwd=tmp_path).expect(2)
    assert reason in ended.said
