"""The simulation against what can be worked out by hand."""

import math
import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from benchmarks.scale import Plan
from benchmarks.scale_links import Episodes, traffic
from benchmarks.scale_simulation import Costs, MachineSpec, RunSpec, Simulation, Workload
from benchmarks.scale_stations import Clock, Machine, Station

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
COSTS = Costs(
    turn_s=0.0,
    server_step_s=0.01,
    server_row_s=0.001,
    prompt_token_s=0.0,
    learner_step_s=0.0,
    learner_token_s=0.0,
    publish_s=0.0,
    weights_bytes=0.0,
    token_bytes=0.0,
)


def finish_times(station: Station, clock: Clock, arrivals: list[tuple[float, float]]) -> list[float]:
    """When each of the jobs (arrival, units) is done."""
    ended = [math.nan] * len(arrivals)

    def arrive(number: int, units: float) -> None:
        def done() -> None:
            ended[number] = clock.now

        station.take(units, done)

    for number, (at, units) in enumerate(arrivals):
        clock.after(at, lambda number=number, units=units: arrive(number, units))  # type: ignore[misc]
    clock.run(lambda: not any(math.isnan(at) for at in ended))
    return ended


def test_rows_slow_each_other_down() -> None:
    clock = Clock()
    decoder = Station(clock, Machine(1), lambda rows: 1.0 + rows, places=8)
    # Alone 2 s a token, by two 3 s: the first has 2 of its 4 tokens after 4 s; then both have 2 left.
    assert finish_times(decoder, clock, [(0.0, 4.0), (4.0, 2.0)]) == pytest.approx([10.0, 10.0])
    assert decoder.busy_s == pytest.approx(10.0)


def test_one_after_the_other_where_there_is_one_place() -> None:
    clock = Clock()
    worker = Station(clock, Machine(1), lambda _: 1.0)
    assert finish_times(worker, clock, [(0.0, 3.0), (1.0, 2.0), (9.0, 1.0)]) == pytest.approx(
        [3.0, 5.0, 10.0]
    )


def test_a_prompt_that_is_read_stalls_the_others() -> None:
    clock = Clock()
    decoder = Station(clock, Machine(1), lambda _: 1.0, places=2)
    ended: dict[str, float] = {}
    decoder.take(4.0, lambda: ended.setdefault("first", clock.now))
    clock.after(1.0, lambda: decoder.take(1.0, lambda: ended.setdefault("second", clock.now), stall_s=5.0))
    clock.run(lambda: len(ended) == 2)
    assert ended == pytest.approx({"first": 9.0, "second": 7.0})


def test_stations_share_the_cores_of_their_machine() -> None:
    clock, machine = Clock(), Machine(2)
    ended: dict[str, float] = {}
    one = Station(clock, machine, lambda _: 1.0, threads=2)
    other = Station(clock, machine, lambda _: 1.0, threads=1)
    one.take(4.0, lambda: ended.setdefault("one", clock.now))
    other.take(2.0, lambda: ended.setdefault("other", clock.now))
    clock.run(lambda: len(ended) == 2)
    # Three threads on two cores: both at 2/3 until the shorter has ended after 3 s; 2 units are left.
    assert ended == pytest.approx({"other": 3.0, "one": 5.0})


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_server_that_is_always_full_is_the_limit(workers: int) -> None:
    load = Workload(episodes=[[(0, 50)] * 4], shared_tokens=0.0, group_size=1)
    machine = MachineSpec(cores=64, learner=True, policy_servers=1, workers=workers, episodes=8)
    run = RunSpec(trees_per_step=32, max_staleness=3, steps=100)
    said = Simulation(COSTS, load, [machine], run).run()
    rows = 8 * workers
    assert said.sampled_tokens_per_s == pytest.approx(rows / (0.01 + 0.001 * rows), rel=0.02)
    assert said.busy["policy servers"] == pytest.approx(1.0, abs=0.01)


def test_in_turns_a_step_is_the_sum_of_both_and_beside_each_other_the_longer() -> None:
    costs = msgspec.structs.replace(COSTS, learner_step_s=1.0)
    load = Workload(episodes=[[(0, 100)]], shared_tokens=0.0, group_size=1)
    machine = MachineSpec(cores=64, learner=True, policy_servers=1, workers=1, episodes=10)
    acting = 100 * (0.01 + 10 * 0.001)
    for staleness, step_s, lag in ((0, acting + 1.0, 0.0), (1, acting, 1.0)):
        run = RunSpec(trees_per_step=10, max_staleness=staleness, steps=30)
        said = Simulation(costs, load, [machine], run).run()
        assert said.step_s == pytest.approx(step_s, rel=0.01)
        assert said.staleness == pytest.approx(lag, abs=0.05)


def test_weights_to_many_servers_leave_one_after_the_other() -> None:
    costs = msgspec.structs.replace(COSTS, weights_bytes=1e9)
    load = Workload(episodes=[[(0, 1)]], shared_tokens=0.0, group_size=1)
    hosts = [
        MachineSpec(cores=8, learner=True, bytes_per_s=1e9),
        MachineSpec(cores=8, count=5, policy_servers=1, workers=1, bytes_per_s=1e9),
    ]
    run = RunSpec(trees_per_step=1, max_staleness=0, steps=10)
    # Five gigabytes out of the learner's gigabyte a second, and the last of them through its server's.
    assert Simulation(costs, load, hosts, run).run().step_s == pytest.approx(6.0, rel=0.01)


def test_machines_without_a_learner_are_refused() -> None:
    load = Workload(episodes=[[(0, 1)]], shared_tokens=0.0, group_size=1)
    with pytest.raises(ValueError, match="got 0, 1 and 1"):
        Simulation(
            COSTS,
            load,
            [MachineSpec(cores=1, policy_servers=1, workers=1)],
            RunSpec(trees_per_step=1, max_staleness=0),
        )


def test_the_machines_of_the_page_can_be_simulated() -> None:
    (written,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    plan = msgspec.convert(tomllib.loads(written), Plan)
    short = msgspec.structs.replace(plan.run, trees_per_step=2, steps=3)
    load = msgspec.structs.replace(plan.workload, turns=3).workload()
    said = Simulation(plan.costs, load, plan.machines, short).run()
    assert said.episodes_at_once == 2048
    assert said.sampled_tokens_per_s > 0


def test_traffic_of_the_page_by_hand() -> None:
    found = traffic(1000, Episodes())
    assert found["requests_per_s"] == pytest.approx(1000 * 30 / 600)
    assert found["request_bytes_per_s"] == pytest.approx(50 * 4 * (2000 + 14.5 * 1700))
    assert found["tree_bytes_per_s"] == pytest.approx(1000 / 600 / 8 * 16 * (2000 + 8 * 30 * 1700))
