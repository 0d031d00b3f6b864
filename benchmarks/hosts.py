"""A run over three hosts of a network, with keys; one is cut off for a minute, one loses its power.

    python -m benchmarks.hosts [--cut-s 60]

Hosts are network namespaces (`host_network`; needs root). The recipe `tiny` without its warm start: the
learner on one, a policy server and an actor program on each of two others. Then, in this order:

* an actor program on a fourth host, which nobody has allowed: how long until it says so;
* a stranger there asks every socket, without keys and with keys of its own: what it gets;
* a host is cut off for so long, and is back: the run goes on meanwhile, and the host takes part again;
* the other one loses its power: the run goes on;
* the learner is killed and resumes.

Counted at the end: trees that an actor numbered before one that the journal holds, and that the journal lacks
(lost), less those that the learner refused since it had given their tasks to others; trees that it holds
twice; steps. Written to `benchmarks/results/hosts.json`.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import tomli_w

from benchmarks.host_network import HostNetwork, reason_against_hosts
from benchmarks.killed_run import SETTINGS
from trieline.config import config_to_dict, load_config
from trieline.wire.journal import read_journal

RESULTS = Path(__file__).parent / "results" / "hosts.json"
LEARNER, FIRST, SECOND, STRANGER = HOSTS = ("learner", "first", "second", "stranger")
LINKS = {
    "trajectories": f"tcp://{LEARNER}:7701",
    "weights_fetch": f"tcp://{LEARNER}-6:7704",  # a name that has IPv6 alone
    "generate": [f"tcp://{FIRST}:7702", f"tcp://{SECOND}:7702"],
}
# Every step changes the weights, also one of equal returns.
ALWAYS_NEW_WEIGHTS = ("learner.objective.advantage=vtrace", "learner.objective.loss=vtrace_pg")
# A start on a busy machine, or weights that wait for a server that is gone.
PROGRESS_S = 300.0
END_S = 120.0
TOLD_WITHIN_S = 5.0
STRANGER_S = 3.0
ASK = """
import sys, zmq
from trieline.wire.codec import encode
from trieline.wire.gate import secure_connected
from trieline.wire.messages import ActorHello, LatestRequest, StatusRequest
words = [ActorHello(actor_id="stranger", capacity=4), LatestRequest(server_id="stranger")]
words += [StatusRequest(request_id=1)] * 2
poller, context = zmq.Poller(), zmq.Context()
for address, word in zip(sys.argv[2:], words):
    for keyed in (False, True):
        dealer = context.socket(zmq.DEALER)
        dealer.linger, dealer.ipv6 = 0, "-6:" in address
        if keyed:
            secure_connected(dealer, address, "")
        dealer.connect(address)
        dealer.send_multipart(encode(word))
        poller.register(dealer, zmq.POLLIN)
print(len(poller.poll(1000 * float(sys.argv[1]))))
context.destroy(linger=0)
"""


@dataclass
class Figures:
    """What came of it."""

    told_after_s: float = 0.0
    """Until the end whose key was not allowed said so, from the other end's word of it."""
    answers_to_a_stranger: int = -1
    cut_off_s: float = 0.0
    steps_while_cut_off: int = 0
    back_after_s: float = 0.0
    """Until a tree of the host that was cut off was in the journal again."""
    on_after_power_off_s: float = 0.0
    """Until the next step."""
    on_after_learner_s: float = 0.0
    """From the learner's end until a step of its next start."""
    steps: int = 0
    trees: int = 0
    lost: int = 0
    refused: int = 0
    twice: int = 0
    wrong: list[str] = field(default_factory=list)


class HostsRun:
    """The programs, and what their folders say."""

    def __init__(self, scratch: Path) -> None:
        self._network = HostNetwork(scratch, HOSTS)
        self._folder = self._network.home(LEARNER) / "run"
        self._config = scratch / "hosts.toml"
        plain = config_to_dict(load_config(["tiny"], [*SETTINGS, *ALWAYS_NEW_WEIGHTS]))
        del plain["learner"]["warm_start"]
        plain["links"] = LINKS
        self._config.write_text(tomli_w.dumps(plain), encoding="utf-8")
        self._cache = {"TRIELINE_CACHE": str(scratch / "cache")}
        self._trieline(LEARNER, "model", "builtin:tiny")
        for host in HOSTS:
            self._trieline(host, "keys", "new", host)
        self._lines = {host: self._trieline(host, "keys", "show").strip() for host in HOSTS}
        # It is known by a second name, that of its IPv6 address.
        self._lines[LEARNER] += f" {LEARNER}-6"

    def close(self) -> None:
        """End everything. Idempotent."""
        self._network.close()

    def allow(self, at: str, *hosts: str) -> None:
        """Let these hosts in, at one of them."""
        lines = "\n".join(self._lines[host] for host in hosts)
        self._trieline(at, "keys", "allow", "-", given=lines)

    def start(self, host: str, verb: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a program of the run."""
        return self._network.start(
            host, "-m", "trieline", verb, "--config", str(self._config), *arguments,
            log=f"{verb}.log", environment=self._cache,
        )  # fmt: skip

    def start_learner(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start it, or go on with `--resume`."""
        return self.start(LEARNER, "learner", "--run", str(self._folder), *arguments)

    def ask_as_stranger(self) -> int:
        """How many of the sockets answered."""
        addresses = [LINKS["trajectories"], LINKS["weights_fetch"], *LINKS["generate"]]
        said = self._network.run(STRANGER, "-c", ASK, str(STRANGER_S), *map(str, addresses))
        return int(said)

    def cut_off(self, host: str) -> None:
        self._network.cut_off(host)

    def plug_in_again(self, host: str) -> None:
        self._network.plug_in_again(host)

    def power_off(self, host: str) -> None:
        self._network.power_off(host)

    def log(self, host: str, verb: str) -> str:
        path = self._network.home(host) / f"{verb}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def steps(self) -> list[int]:
        """The numbers of all steps in the metrics."""
        path = self._folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        return [int(one["step"]) for line in lines if "reward/mean" in (one := json.loads(line))]

    def trees(self) -> dict[str, list[int]]:
        """The numbers of the journal's trees, by actor."""
        found: dict[str, list[int]] = {}
        for delivery in read_journal(self._folder / "journal"):
            found.setdefault(delivery.actor_id, []).append(delivery.sequence_number)
        return found

    def wait(self, condition: Callable[[], bool], what: str, limit_s: float = PROGRESS_S) -> float:
        """Seconds until it was so."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > limit_s:
                logs = "\n".join(
                    f"--- {host} {verb}\n{text[-3000:]}"
                    for host in HOSTS
                    for verb in ("learner", "policy-server", "actor")
                    if (text := self.log(host, verb))
                )
                msg = f"waited {limit_s:g} s for {what}:\n{logs}"
                raise TimeoutError(msg)
            time.sleep(0.05)
        return time.monotonic() - began

    def wait_for_steps(self, more: int, what: str) -> float:
        aim = len(self.steps()) + more
        return self.wait(lambda: len(self.steps()) >= aim, what)

    def _trieline(self, host: str, *arguments: str, given: str = "") -> str:
        return self._network.run(host, "-m", "trieline", *arguments, given=given, environment=self._cache)


def say(text: str) -> None:
    """Progress, for people."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def run_hosts(cut_s: float) -> Figures:
    """The whole story, once."""
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="trieline-hosts-") as scratch:
        run = HostsRun(Path(scratch))
        try:
            learner = begin(run, figures)
            cut_one_off(run, figures, cut_s)
            lose(run, figures, learner)
            look_over(run, figures)
        finally:
            run.close()
    return figures


def begin(run: HostsRun, figures: Figures) -> "subprocess.Popen[bytes]":
    """All programs start, and somebody tries who is not allowed."""
    for host in HOSTS:
        run.allow(host, LEARNER, FIRST, SECOND)
    learner = run.start_learner()
    for host in (FIRST, SECOND):
        run.start(host, "policy-server")
        run.start(host, "actor")
    run.wait_for_steps(2, "two steps")
    log, told = run.log, "it does not know the key of this machine; on learner, `trieline keys allow"
    refused = run.start(STRANGER, "actor")
    run.wait(lambda: "refused for their key" in log(LEARNER, "learner"), "that a key is refused")
    figures.told_after_s = run.wait(lambda: told in log(STRANGER, "actor"), "a word to the refused")
    say(f"the refused end said so {figures.told_after_s:.1f} s after it was refused")
    refused.send_signal(signal.SIGTERM)
    run.wait(lambda: len(run.trees()) >= 4, "trees of both hosts")  # each actor has two workers
    run.wait(lambda: "serving version" in log(SECOND, "policy-server"), "the second server")
    figures.answers_to_a_stranger = run.ask_as_stranger()
    say(f"a stranger got {figures.answers_to_a_stranger} answers")
    return learner


def cut_one_off(run: HostsRun, figures: Figures, cut_s: float) -> None:
    """The second host, for so long."""
    run.wait_for_steps(1, "a step before the cut")
    before, began = len(run.steps()), time.monotonic()
    run.cut_off(SECOND)
    time.sleep(cut_s / 2)
    half = counts(run)
    time.sleep(cut_s / 2)
    gone = [actor for actor, count in counts(run).items() if count == half.get(actor)]
    if len(gone) not in range(1, len(half)):
        figures.wrong.append(f"expected trees of one host while the other one is cut off, got {half}")
    figures.steps_while_cut_off = len(run.steps()) - before
    run.plug_in_again(SECOND)
    figures.cut_off_s = time.monotonic() - began
    say(f"cut off for {figures.cut_off_s:.0f} s, {figures.steps_while_cut_off} steps meanwhile")
    before_return = counts(run)
    figures.back_after_s = run.wait(
        lambda: any(counts(run).get(actor) != before_return.get(actor) for actor in gone), "its trees"
    )
    say(f"a tree of it was in the journal {figures.back_after_s:.1f} s after it was back")


def counts(run: HostsRun) -> dict[str, int]:
    """Trees in the journal, by actor."""
    return {actor: len(numbers) for actor, numbers in run.trees().items()}


def lose(run: HostsRun, figures: Figures, learner: "subprocess.Popen[bytes]") -> None:
    """The first host for good, the learner until it is started again."""
    run.power_off(FIRST)
    figures.on_after_power_off_s = run.wait_for_steps(2, "steps without the first host")
    say(f"two steps {figures.on_after_power_off_s:.1f} s after the first host lost its power")
    learner.kill()
    learner.wait()
    learner = run.start_learner("--resume")
    figures.on_after_learner_s = run.wait_for_steps(2, "steps of the learner that resumed")
    say(f"two steps {figures.on_after_learner_s:.1f} s after the learner was killed")
    learner.send_signal(signal.SIGTERM)
    if learner.wait(END_S) != 0:
        figures.wrong.append(f"the learner ended with {learner.returncode}")


def look_over(run: HostsRun, figures: Figures) -> None:
    """Count what the journal holds."""
    steps, trees = run.steps(), run.trees()
    figures.steps, figures.trees = len(steps), sum(map(len, trees.values()))
    if steps != list(range(1, len(steps) + 1)):
        figures.wrong.append(f"expected every step once, got {steps}")
    figures.lost = sum(max(found) + 1 - len(set(found)) for found in trees.values())
    figures.twice = sum(count - 1 for found in trees.values() for count in Counter(found).values())
    figures.refused = sum(run.log(host, "actor").count("trees rejected") for host in HOSTS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cut-s", type=float, default=60.0, help="how long a host is cut off")
    options = parser.parse_args()
    if reason := reason_against_hosts():
        sys.stderr.write(f"{reason}\n")
        return 2
    figures = run_hosts(options.cut_s)
    RESULTS.write_text(json.dumps(asdict(figures), indent=1) + "\n", encoding="utf-8")
    print(json.dumps(asdict(figures), indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
