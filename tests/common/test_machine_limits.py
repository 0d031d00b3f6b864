"""Limits of control groups, read from copies of what the kernel shows."""

import os
from pathlib import Path

import pytest

from trieline.common.machine_limits import cpu_quota, memory_limit, usable_cores, usable_memory

GIB = 2**30


def machine(
    tmp_path: Path, *, groups: str, mounts: list[tuple[str, str, str]], files: dict[str, str]
) -> Path:
    """A /proc/self of a process in `groups`; `mounts`: (root, where, kind and options)."""
    for name, text in files.items():
        path = tmp_path / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    lines = [
        f"{30 + i} 24 0:{i} {root} {tmp_path / 'sys' / where} rw,nosuid shared:{i} - {kind}"
        for i, (root, where, kind) in enumerate(mounts)
    ]
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(groups)
    (proc / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda rw\n" + "\n".join(lines) + "\n")
    return proc


def test_version_2_in_a_namespace_as_containers_have_it(tmp_path: Path) -> None:
    proc = machine(
        tmp_path,
        groups="0::/\n",
        mounts=[("/", "cgroup", "cgroup2 cgroup rw")],
        files={"cgroup/cpu.max": "50000 100000\n", "cgroup/memory.max": f"{2 * GIB}\n"},
    )
    assert cpu_quota(proc) == 0.5
    assert memory_limit(proc) == 2 * GIB


def test_the_least_of_all_groups_up_to_the_root_counts(tmp_path: Path) -> None:
    proc = machine(
        tmp_path,
        groups="0::/job/step/task\n",
        mounts=[("/", "cgroup", "cgroup2 cgroup rw")],
        files={
            "cgroup/job/cpu.max": "150000 100000\n",
            "cgroup/job/step/cpu.max": "max 100000\n",
            "cgroup/job/step/task/cpu.max": "400000 100000\n",
            "cgroup/job/memory.max": "max\n",
            "cgroup/job/step/memory.max": f"{3 * GIB}\n",
        },
    )
    assert cpu_quota(proc) == 1.5
    assert memory_limit(proc) == 3 * GIB


def test_version_1_where_the_mount_shows_the_end_of_the_path(tmp_path: Path) -> None:
    proc = machine(
        tmp_path,
        groups="5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n0::/\n",
        mounts=[
            ("/docker/abc", "memory", "cgroup cgroup rw,memory"),
            ("/docker/abc", "cpu", "cgroup cgroup rw,cpu,cpuacct"),
            ("/", "unified", "cgroup2 cgroup2 rw"),
        ],
        files={
            "memory/memory.limit_in_bytes": f"{4 * GIB}\n",
            "cpu/cpu.cfs_quota_us": "250000\n",
            "cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert cpu_quota(proc) == 2.5
    assert memory_limit(proc) == 4 * GIB


def test_no_limit_is_none(tmp_path: Path) -> None:
    proc = machine(
        tmp_path,
        groups="4:cpu,cpuacct:/\n0::/\n",
        mounts=[("/", "cpu", "cgroup cgroup rw,cpu,cpuacct")],
        files={"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
    )
    assert cpu_quota(proc) is None
    assert memory_limit(proc) is None
    assert cpu_quota(tmp_path / "nowhere") is None


@pytest.mark.parametrize(("quota", "cores"), [(None, 4), (0.5, 1), (2.9, 2), (64.0, 4)])
def test_threads_follow_the_quota_and_are_at_least_one(
    quota: float | None, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr("trieline.common.machine_limits.cpu_quota", lambda: quota)
    assert usable_cores() == cores


def test_of_this_machine_something_is_left() -> None:
    assert usable_cores() >= 1
    assert 0 < usable_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
