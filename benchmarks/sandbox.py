"""What a sandbox costs, beside Docker Engine's own means and SWE-ReX: exec, a clean one, a workspace, a fork.

    scripts/with_docker.sh python -m benchmarks.sandbox --swe-rex rex/bin/python

First the sides in turns, round by round (`sandbox_sides.py` says what each is asked for). The engine's
containers are plain ones, without our limits; SWE-ReX's is that of its Docker deployment, on the host's
network. Both lack what ours adds: an end to leftover processes, bounds on time, output, memory and disk.
`--swe-rex` is a Python with the packages `swe-rex` and `aiohttp`; without it that side is left out. Then our
backends alone: a sandbox, its pool, and a workspace on a repository of 20 MB in 2,000 files.

Written to `benchmarks/results/sandbox.json`. Times are wall-clock milliseconds; `exec_cpu_ms` is the
processor time of keeper and programs, per exec.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.sandbox_sides import (
    CHANGE,
    GET_SWE_REX,
    PROGRAM,
    EngineApi,
    EngineCommand,
    OurSide,
    Side,
    SweRex,
    in_turns,
)
from trieline.envs.sandbox import (
    WORKSPACE,
    Sandbox,
    SandboxLimits,
    SandboxPool,
    SandboxSpec,
    available_backends,
    bubblewrap,
    fork,
    open_sandbox,
)
from trieline.envs.sandbox.backends import Backend
from trieline.envs.sandbox.bubblewrap import BubblewrapSandbox
from trieline.launcher.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "sandbox.json"
COUNTS = {"true": 40, "program": 20, "line": 40, "clean": 2, "workspace": 2, "fork": 2, "copy": 1}
"""Of each thing, a round and side."""
TICKS = os.sysconf("SC_CLK_TCK")


def times(act: Callable[[], object], count: int) -> dict[str, float]:
    """Milliseconds of `act`."""
    taken = []
    for _ in range(count):
        started = time.perf_counter()
        act()
        taken.append((time.perf_counter() - started) * 1e3)
    taken.sort()
    figures = {"least": taken[0], "median": statistics.median(taken), "p95": taken[int(count * 0.95)]}
    return {name: round(figure, 2) for name, figure in figures.items()}


def keeper_pid(sandbox: Sandbox) -> int | None:
    """On this machine."""
    if isinstance(sandbox, BubblewrapSandbox):
        assert sandbox._process is not None
        outer = sandbox._process.pid
        return int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])
    if hasattr(sandbox, "image"):
        from trieline.envs.sandbox import docker

        return int(docker.engine().api.inspect_container(sandbox._name)["State"]["Pid"])  # type: ignore[attr-defined]
    return None


def cpu_ms(pid: int) -> float:
    """Of a process and its reaped children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / TICKS * 1e3


def resident_mib(pid: int) -> float:
    """Of a process alone."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def beside(rounds: int, swe_rex: Path | None) -> dict[str, Any]:
    """Medians of all sides and, for each thing, how many times as long as under our Docker it takes."""
    with ExitStack() as stack:
        sides: list[Side] = []

        def add(side: Side) -> None:
            stack.callback(side.close)
            sides.append(side)

        docker_spec = stack.enter_context(repository("docker"))
        assert docker_spec.image is not None
        ours = OurSide("docker", docker_spec)
        add(ours)
        if not available_backends().get("bubblewrap"):
            add(OurSide("bubblewrap", stack.enter_context(repository("bubblewrap"))))
        add(EngineApi(docker_spec.image))
        add(EngineCommand())
        if swe_rex is not None:
            add(SweRex(swe_rex))
        in_turns(sides, dict.fromkeys(COUNTS, 1), 1)
        taken = in_turns(sides, COUNTS, rounds)
    medians = {
        what: {name: round(statistics.median(times), 3) for name, times in by_side.items()}
        for what, by_side in taken.items()
    }
    ratios = {
        what: {name: round(median / by_side[ours.name], 2) for name, median in by_side.items()}
        for what, by_side in medians.items()
        if ours.name in by_side
    }
    return {
        "rounds": rounds,
        "a_round": COUNTS,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "median_ms": medians,
        "times_ours_under_docker": ratios,
    }


def aims(report: dict[str, Any]) -> list[str]:
    """What was to be reached, and what was."""
    found = report["median_ms"]
    ours, api = "trieline, docker", "engine, API"
    lines = []
    for what in ("true", "program", "line"):
        share = found[what][ours] / found[what][api]
        lines.append(f"exec of `{what}` takes {share:.2f} of the engine's time (aim: at most 1.1)")
    lines.append(f"a clean sandbox from the pool takes {found['clean'][ours]:.1f} ms (aim: under 50)")
    for name in found["true"]:
        if name.startswith("SWE-ReX"):
            for what in ("true", "program", "line"):
                times = found[what][name] / found[what][ours]
                lines.append(f"{times:.1f} times the commands a second of {name} with `{what}` (aim: 3)")
    return lines


def measure(backend: Backend, execs: int) -> dict[str, Any]:
    """All figures of one backend."""
    limits = SandboxLimits()

    def exec_once(sandbox: Sandbox) -> None:
        assert sandbox.exec(PROGRAM).stdout == b"42\n"

    def dirty_reset(sandbox: Sandbox) -> float:
        sandbox.exec(["sh", "-c", "for n in 1 2 3 4 5 6; do mkdir d$n; echo x > d$n/f; done; sleep 60 &"])
        started = time.perf_counter()
        sandbox.reset()
        return (time.perf_counter() - started) * 1e3

    sandbox = open_sandbox(backend, limits)
    try:
        exec_once(sandbox)
        pid = keeper_pid(sandbox)
        before = cpu_ms(pid) if pid else 0.0
        figures: dict[str, Any] = {"exec_ms": times(lambda: exec_once(sandbox), execs)}
        if pid:
            figures["exec_cpu_ms"] = round((cpu_ms(pid) - before) / execs, 2)
            figures["keeper_resident_mib"] = round(resident_mib(pid), 1)
        figures["exec_true_ms"] = times(lambda: sandbox.exec(["true"]), execs)
        figures["reset_ms"] = {"median": round(statistics.median(dirty_reset(sandbox) for _ in range(20)), 2)}
    finally:
        sandbox.close()
    started = time.perf_counter()
    for _ in range(5):
        open_sandbox(backend, limits).close()
    figures["start_and_close_ms"] = round((time.perf_counter() - started) / 5 * 1e3, 1)
    figures["pool"] = measure_pool(backend, limits, execs)
    return figures


def measure_pool(backend: Backend, limits: SandboxLimits, tasks: int) -> dict[str, Any]:
    """A clean sandbox from the warm pool and back, alone, and tasks a second on as many threads as cores."""
    pool = SandboxPool(backend, limits)
    try:
        pool.warm()

        def task(_: int = 0) -> None:
            with pool.lend() as sandbox:
                sandbox.write("program.py", b"print(6 * 7)")
                assert sandbox.exec(["python3", "-I", "-S", "program.py"]).stdout == b"42\n"

        figures: dict[str, Any] = {"task_ms": times(task, tasks)}
        figures["lease_ms"] = times(lambda: pool.release(pool.acquire()), tasks)
        with ThreadPoolExecutor(pool.size) as threads:
            started = time.perf_counter()
            list(threads.map(task, range(tasks)))
            figures["tasks_per_second"] = round(tasks / (time.perf_counter() - started), 1)
        figures["size"] = pool.size
        return figures
    finally:
        pool.close()


@contextmanager
def repository(backend: Backend) -> Iterator[SandboxSpec]:
    """The spec of a workspace on it."""
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder, "repository")
        for number in range(2000):
            path = checkout / f"package_{number % 40}" / f"module_{number}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"value_{number} = {number}\n" * 600)
        git = "git -c user.name=a -c user.email=a@b"
        line = f"git init -q . && git add -A && {git} commit -q -m first"
        subprocess.run(line, shell=True, cwd=checkout, check=True)
        if backend == "bubblewrap":
            bubblewrap.give(checkout)
            yield SandboxSpec(checkout=str(checkout), workdir="/testbed")
            return
        from trieline.envs.sandbox import docker, images

        image = f"trieline/benchmark:{os.getpid()}"
        images.make_of(checkout, image, workdir="/testbed")
        try:
            yield SandboxSpec(image=image, workdir="/testbed", writable_root=True)
        finally:
            docker.engine().remove_image(image)


def measure_workspace(backend: Backend, count: int) -> dict[str, Any]:
    """Figures of one backend, in milliseconds."""
    with repository(backend) as spec:

        def clean() -> None:
            open_sandbox(backend, WORKSPACE, spec).close()

        figures: dict[str, Any] = {"start_and_close_ms": times(clean, count)}
        sandbox = open_sandbox(backend, WORKSPACE, spec)
        try:
            figures["shell_true_ms"] = times(lambda: sandbox.exec(spec.line("true")), 5 * count)
            figures["git_status_ms"] = times(lambda: sandbox.exec(spec.line("git status --short")), count)
            sandbox.exec(spec.line(CHANGE))
            figures["snapshot_ms"] = times(lambda: sandbox.snapshot().close(), count)
            figures["fork_and_close_ms"] = times(lambda: fork(sandbox).close(), count)
        finally:
            sandbox.close()
        pool = SandboxPool(backend, WORKSPACE, spec, size=1)
        try:
            pool.warm()

            def lease() -> None:
                with pool.lend():
                    pass

            figures["lease_of_one_ms"] = times(lease, count)
        finally:
            pool.close()
        return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", choices=["docker", "bubblewrap", "none"], action="append")
    parser.add_argument("--execs", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5, help="of all sides in turns; 0: our backends alone")
    parser.add_argument("--swe-rex", type=Path, help="a Python with the packages swe-rex and aiohttp")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    reasons = available_backends()
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "program": PROGRAM,
        "cores": len(os.sched_getaffinity(0)),
        "execs": arguments.execs,
    }
    if arguments.rounds and reasons.get("docker"):
        print(f"no comparison without Docker: {reasons['docker']}", file=sys.stderr)
    elif arguments.rounds:
        if arguments.swe_rex is None:
            print("SWE-ReX is left out: " + GET_SWE_REX, file=sys.stderr)
        report["beside"] = beside(arguments.rounds, arguments.swe_rex)
    for backend in arguments.backend or ["docker", "bubblewrap", "none"]:
        if reasons.get(backend):
            print(f"{backend}: {reasons[backend]}", file=sys.stderr)
            continue
        report[backend] = measure(backend, arguments.execs)
        if backend != "none":
            report[backend]["workspace"] = measure_workspace(backend, max(5, arguments.execs // 10))
    text = json.dumps(report, indent=2)
    print(text)
    if "beside" in report:
        print(*aims(report["beside"]), sep="\n")
    arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
