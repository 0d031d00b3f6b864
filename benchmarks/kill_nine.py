"""Every program of a run killed again and again (`kill -9`), at random moments, while it trains.

    python -m benchmarks.kill_nine [--kinds plain docker warm-start agent] [--kills 10] [--seed 0]
                                   [--targets learner worker ...]

Runs of the recipe `tiny`, through `trieline train`, of four kinds:

* plain: without its warm start;
* docker: the same, with environments that run programs in containers of Docker Engine, of a pool and of an
  episode's own, and keep images of them (under `scripts/with_docker.sh`);
* warm-start: with it, and killed in it;
* agent: without it, every episode played by a program that asks the gateway of its worker; the target `agent`
  is one of these programs.

The target `all` is every program at once. After the last kill of a run it makes two more steps and is
stopped; then its folder and this machine are looked over:

* lost: trees that an actor numbered before one that the journal holds, and that the journal lacks. There is
  no evaluation, so that all that actors play is journaled, but for the warm start: of its runs, what an actor
  numbered before its first tree in the journal does not count.
* twice: trees that the journal holds more than once; steps that the metrics hold more than once or not at
  all; records that the last checkpoint has used up, beside those that its steps took.
* left: processes, temporary folders, shared memory and unfinished checkpoints of the run; containers, images,
  networks and volumes of the engine, processes in containers that are gone; and, while a killed launcher is
  not started again, containers in which anything still runs.
* ended: runs that did not go on, with the end of what they showed.

`resting`: what a killed launcher, or all programs, had left in the engine when the last one of them was dead,
at most; nothing runs in it, and the next start removes it.

Written to `benchmarks/results/kill_nine.json`, where other kinds and targets stay as they were. A run
tolerates four deaths of one program within a time, so that a run is begun anew after four kills.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from benchmarks.killed_run import AGENT, TARGETS, Figures, KilledRun, Kind, RunEndedError

RESULTS = Path(__file__).parent / "results" / "kill_nine.json"
KILLS_PER_RUN = 4
FIRST_MOMENT_S = 30.0
NEXT_MOMENT_S = 6.0


def kill_in_one_run(
    targets: Sequence[str], rng: random.Random, figures: Figures, *, early: bool = True
) -> None:
    """Kill these, one after the other. `early`: the first may come before the first step."""
    with tempfile.TemporaryDirectory(prefix="kill-nine-") as scratch:
        run = KilledRun(Path(scratch), figures)
        try:
            if not early:
                run.wait_for_steps(1)
            for number, target in enumerate(targets):
                moment = rng.uniform(0.0, FIRST_MOMENT_S if early and number == 0 else NEXT_MOMENT_S)
                print(f"  {target}: kill {figures.kills + 1}, {moment:.2f} s on", flush=True)
                run.kill(target, moment)
                figures.kills += 1
            run.wait_for_steps(len(run.steps()) + 2)
            run.stop()
        except RunEndedError as error:
            figures.ended.append(str(error))
        finally:
            if run.folder is not None and run.steps():
                run.look_over()
            run.close()


def kill_often(target: str, kind: Kind, kills: int, seed: int) -> Figures:
    """Kill one kind of program so often, in as many runs as that takes."""
    rng, figures = random.Random(f"{seed} {target}"), Figures(kind, target)
    print(f"{kind}: {target} (seed {seed})", flush=True)
    while figures.kills < kills and len(figures.ended) < kills:
        kill_in_one_run([target] * min(KILLS_PER_RUN, kills - figures.kills), rng, figures)
    return figures


def keep(found: Figures, seed: int) -> None:
    """Add them to the results, in the place of an earlier row of the same kind and target."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    rows = [row for row in rows if (row["kind"], row["target"]) != (found.kind, found.target)]
    rows.append({"seed": seed, **asdict(found), "good": found.good})
    kinds = get_args(Kind)
    rows.sort(key=lambda row: (kinds.index(row["kind"]), (*TARGETS, AGENT).index(row["target"])))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=get_args(Kind), default=["plain"])
    parser.add_argument("--kills", type=int, default=10, help="of each kind of program")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--targets", nargs="+", choices=(*TARGETS, AGENT), default=TARGETS)
    options = parser.parse_args()
    found = []
    for kind in options.kinds:
        for target in options.targets:
            found.append(kill_often(target, kind, options.kills, options.seed))
            keep(found[-1], options.seed)
    print(f"{'kind':<10} {'killed':<14} kills runs steps trees lost twice left ended resting")
    for f in found:
        print(
            f"{f.kind:<10} {f.target:<14} {f.kills:>5} {f.runs:>4} {f.steps:>5} {f.trees:>5} {f.lost:>4} "
            f"{len(f.twice):>5} {len(f.left):>4} {len(f.ended):>5} {f.until_next_start:>7}  "
            f"{'good' if f.good else 'BAD'}"
        )
        for text in (*f.twice, *f.left, *f.ended):
            print(f"  {text}")
    return 0 if all(f.good for f in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
