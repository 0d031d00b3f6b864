"""mini-swe-agent as it is in our workspace, and the same replies in `trieline/SWE-v0`, on a set of tasks.

    trieline tasks make --recipe mini --output mini
    python -m benchmarks.mini_swe_agent --data mini/tasks.jsonl --checkouts mini/checkouts

Both play the gold patch of each task, after a look around in which output is long, empty, no text and without
an end of line. Patch, score and every observation are compared; in what words the observations differ by
intent says `in_our_words` in tests/envs/swe/real_agent.py. It needs `pip install trieline[mini-swe-agent]`,
perhaps in an environment of its own. Written to `benchmarks/results/mini_swe_agent.json`.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tests.envs.swe import real_agent
from trieline.envs import make_env
from trieline.envs.swe.gold import gold_commands

RESULTS = Path(__file__).parent / "results" / "mini_swe_agent.json"


def compare(data: Path, checkouts: Path, ids: Sequence[str]) -> dict[str, Any]:
    """How many tasks were played, resolved both ways, and came out differently."""
    settings = {"data": str(data), "checkouts": str(checkouts)}
    env: Any = make_env("trieline/SWE-v0", **settings).unwrapped
    tasks = [task for task in env.all_tasks() if not ids or task.instance_id in ids]
    report: dict[str, Any] = {
        "tasks": len(tasks),
        "resolved_both_ways": 0,
        "observations": 0,
        "different": [],
    }
    for task in tasks:
        commands = (*real_agent.LOOK, *gold_commands(task), "git diff", real_agent.SUBMISSION)
        replies = [real_agent.TALK, *map(real_agent.reply_with, commands)]
        agent = real_agent.agent_plays(task.instance_id, replies, 60.0, **settings)
        ours = real_agent.env_plays(task.instance_id, replies, 60.0, **settings)
        found = real_agent.differences(agent, ours)
        print(f"{task.instance_id}: {agent['reward']}", *found, sep="\n  ", flush=True)
        report["resolved_both_ways"] += agent["reward"] == ours["reward"] == 1.0
        report["observations"] += len(agent["observations"])
        report["different"] += [f"{task.instance_id}: {one}" for one in found]
    return report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkouts", type=Path, required=True)
    parser.add_argument("--ids", nargs="*", default=[], help="of tasks; without it all of them")
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    try:
        agent = version("mini-swe-agent")
    except PackageNotFoundError:
        sys.exit("expected mini-swe-agent: pip install 'trieline[mini-swe-agent]', here or elsewhere")
    started = time.monotonic()
    report = {"mini_swe_agent": agent, **compare(arguments.data, arguments.checkouts, arguments.ids)}
    report["seconds"] = round(time.monotonic() - started)
    text = json.dumps(report, indent=2)
    print(text)
    arguments.json.write_text(text + "\n")
    sys.exit(1 if report["different"] else 0)


if __name__ == "__main__":
    main()
