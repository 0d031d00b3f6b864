"""The live view of a run: what a person sees while it learns."""

import itertools
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trieline.common.text import LINES, visible

BARS = "▁▂▃▄▅▆▇█"
REWARD_PREFIX, REWARD_SUFFIX = "reward/", "/mean"


@dataclass(slots=True)
class _State:
    step: int = 0
    record: Mapping[str, Any] = field(default_factory=dict)
    rewards: dict[str, list[float]] = field(default_factory=dict)
    evaluations: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    phase: str = "starting"
    step_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=10))


def say(console: Console, text: str) -> None:
    """A line for people that may hold paths and names: nothing in it is markup, and none is broken."""
    console.print(visible(text, keep=LINES), highlight=False, markup=False, soft_wrap=True)


class Progress:
    """Shows records of `metrics.jsonl`: a live view in a terminal, a line a step elsewhere."""

    def __init__(
        self, title: str, *, steps: int, console: Console | None = None, supervised: bool = False
    ) -> None:
        """`supervised`: what the run is after is the loss, not a reward."""
        self._title = title
        self._supervised = supervised
        self._steps = steps
        self._console = console or Console()
        self._state = _State()
        self._began = time.monotonic()
        self._live = (
            Live(console=self._console, refresh_per_second=4, get_renderable=self.render)
            if self._console.is_terminal
            else None
        )

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def phase(self, text: str) -> None:
        """Say what the run is doing while no step can tell."""
        if text == self._state.phase:
            return
        self._state.phase = text
        if not self._live:
            say(self._console, f"[{self._elapsed()}] {text}")

    def update(self, record: Mapping[str, Any]) -> None:
        """Take one record of `metrics.jsonl`."""
        state = self._state
        state.step = int(record.get("step", state.step))
        for name, value in record.items():
            if name.startswith("eval/") and name.endswith("/avg@k"):
                state.evaluations.setdefault(name[5:-6], []).append((state.step, float(value)))
        if "reward/mean" not in record:
            return
        state.phase = "training"
        state.record = record
        if "time/step" in record:
            state.step_seconds.append(float(record["time/step"]))
        for name, value in () if self._supervised else record.items():
            env = environment_of(name)
            if env:
                state.rewards.setdefault(env, []).append(float(value))
        if not self._live:
            say(self._console, self._line())

    def render(self) -> RenderableType:
        """The whole view."""
        state = self._state
        head = Table.grid(expand=True, padding=(0, 1))
        head.add_column(ratio=1)
        head.add_column(justify="right")
        head.add_row(
            Text(visible(self._title), style="bold"),
            Text(f"{state.phase}   {self._elapsed()}   ETA {self._eta()}"),
        )
        parts: list[RenderableType] = [head, ProgressBar(total=max(1, self._steps), completed=state.step)]
        if state.rewards:
            parts.append(self._rewards())
        if state.record:
            parts.append(Text(self._rates(), style="dim"))
        sample = state.record.get("sample")
        if isinstance(sample, Mapping):
            prompt, reply = str(sample.get("prompt", ""))[-300:], str(sample.get("reply", ""))[:300]
            body = Text(visible(prompt.strip(), keep=LINES) + "\n", style="dim")
            body.append(visible(reply.strip(), keep=LINES), style="cyan")
            title = Text(visible(f"{sample.get('env', 'a sample')}, reward {sample.get('reward')}"))
            parts.append(Panel(body, title=title, title_align="left"))
        return Panel(Group(*parts), title=f"step {state.step}/{self._steps}", title_align="left")

    def _rewards(self) -> Table:
        table = Table(box=None, expand=True, pad_edge=False)
        for heading, right in (
            ("environment", False),
            ("reward", True),
            ("held out", True),
            ("level", True),
            ("over the steps", False),
        ):
            table.add_column(heading, justify="right" if right else "left")
        for env, values in sorted(self._state.rewards.items()):
            recent = values[-5:]
            held_out = " → ".join(f"{value:.2f}" for _, value in self._state.evaluations.get(env, [])[-3:])
            level = self._state.record.get(f"curriculum/{env}/level")
            table.add_row(
                Text(visible(env)),
                f"{sum(recent) / len(recent):.2f}",
                held_out,
                "" if level is None else f"{level:.0f}",
                sparkline(values, 40),
            )
        return table

    def _rates(self) -> str:
        record = self._state.record
        parts = [
            _figure(record, "loss/policy", "loss {:.4f}") if self._supervised else "",
            _figure(record, "perf/actor_tokens_per_second", "actors {:.0f} tokens/s"),
            _figure(record, "perf/throughput", "learner {:.0f} tokens/s"),
            _figure(record, "time/step", "{:.1f} s a step"),
            "" if self._supervised else _figure(record, "off_policy/staleness/mean", "lag {:.1f}"),
            _figure(record, "mismatch_kl/mean", "mismatch {:.1e}"),
            _figure(record, "entropy/mean", "entropy {:.2f}"),
        ]
        if record.get("tree/token_ratio"):
            parts.append(f"L/N {1 / float(record['tree/token_ratio']):.1f}")
        return "   ".join(part for part in parts if part)

    def _line(self) -> str:
        state = self._state
        rewards = "  ".join(f"{env} {values[-1]:.2f}" for env, values in sorted(state.rewards.items()))
        step = f"step {state.step}/{self._steps}"
        return f"[{self._elapsed()}] {step}  {rewards}  {self._rates()}  ETA {self._eta()}"

    def _elapsed(self) -> str:
        return _clock(time.monotonic() - self._began)

    def _eta(self) -> str:
        seconds = self._state.step_seconds
        if not seconds:
            return "–"
        return _clock((self._steps - self._state.step) * sum(seconds) / len(seconds))


def sparkline(values: list[float], width: int) -> str:
    """Values in [0, 1] as a row of bars, averaged down to `width`."""
    if len(values) > width:
        edges = [round(i * len(values) / width) for i in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    return "".join(BARS[min(len(BARS) - 1, max(0, int(v * len(BARS))))] for v in values)


def environment_of(metric: str) -> str | None:
    """The environment whose reward this metric is, None if it is another metric."""
    if metric.startswith(REWARD_PREFIX) and metric.endswith(REWARD_SUFFIX) and metric != "reward/mean":
        return metric[len(REWARD_PREFIX) : -len(REWARD_SUFFIX)]
    return None


def _figure(record: Mapping[str, Any], name: str, template: str) -> str:
    return template.format(float(record[name])) if name in record else ""


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
