"""What each link carries at so many episodes at once, beside what was measured that it can.

The measured sides are the committed results of `benchmarks/wire.py` and `benchmarks/actors.py`.
"""

import json
from pathlib import Path
from typing import Any

import msgspec

from trieline.config import TOKEN_BYTES

RESULTS = Path(__file__).parent / "results"
REQUEST_TOKEN_BYTES = 4
"""A prompt travels whole with each request: int32."""
SIZES = (10, 1_000, 100_000)


class Episodes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Episodes as a coding agent has them."""

    turns: int = 30
    shared_tokens: int = 2_000
    """Of the task, which the rollouts of a group have in common."""
    context_tokens: int = 1_500
    """New ones a turn: what the tools say."""
    sampled_tokens: int = 200
    """A turn."""
    seconds: float = 600.0
    group_size: int = 8

    @property
    def mean_prompt(self) -> float:
        """Tokens of a request, over the turns of an episode."""
        return self.shared_tokens + (self.turns - 1) / 2 * (self.context_tokens + self.sampled_tokens)

    @property
    def tree_tokens(self) -> int:
        """Unique ones."""
        return self.shared_tokens + self.group_size * self.turns * (self.context_tokens + self.sampled_tokens)


def traffic(at_once: int, episodes: Episodes) -> dict[str, float]:
    """Messages and bytes a second with so many episodes at once."""
    turns_s = at_once * episodes.turns / episodes.seconds
    trees_s = at_once / episodes.seconds / episodes.group_size
    return {
        "requests_per_s": turns_s,
        "request_bytes_per_s": turns_s * episodes.mean_prompt * REQUEST_TOKEN_BYTES,
        "answer_bytes_per_s": turns_s * episodes.sampled_tokens * TOKEN_BYTES,
        "sampled_tokens_per_s": turns_s * episodes.sampled_tokens,
        "trees_per_s": trees_s,
        "tree_bytes_per_s": trees_s * episodes.tree_tokens * TOKEN_BYTES,
        "journal_bytes_a_day": trees_s * episodes.tree_tokens * TOKEN_BYTES * 86_400,
    }


def measured() -> dict[str, float]:
    """What the links and the actors can do on the machine of the committed results."""
    wire = json.loads((RESULTS / "wire.json").read_text(encoding="utf-8"))
    actors = json.loads((RESULTS / "actors.json").read_text(encoding="utf-8"))
    largest: dict[str, Any] = max(wire["sizes"], key=lambda size: int(size["tokens"]))
    case = next(c for c in actors["cases"] if c["episodes"] == 1000 and c["latency_s"] > 0)
    return {
        "tree_bytes_per_s": largest["mb_per_s"]["journal"] * 1e6,
        "actor_s_a_turn": case["cpu_ms_per_turn"] / 1e3,
        "actor_mb_of_1000_episodes": case["peak_resident_mb"],
    }


def table(episodes: Episodes) -> str:
    """In Markdown, a column for each size."""
    limits = measured()
    columns = [traffic(size, episodes) for size in SIZES]
    rows = [
        ("requests to policy servers, /s", [f"{c['requests_per_s']:,.1f}" for c in columns]),
        ("prompts to policy servers, MB/s", [f"{c['request_bytes_per_s'] / 1e6:,.2f}" for c in columns]),
        ("answers, MB/s", [f"{c['answer_bytes_per_s'] / 1e6:,.3f}" for c in columns]),
        ("sampled tokens, /s", [f"{c['sampled_tokens_per_s']:,.0f}" for c in columns]),
        (
            "actors: cores for turns",
            [f"{c['requests_per_s'] * limits['actor_s_a_turn']:,.3f}" for c in columns],
        ),
        (
            "actors: memory of the programs, GB",
            [f"{max(1, size / 1000) * limits['actor_mb_of_1000_episodes'] / 1e3:,.2f}" for size in SIZES],
        ),
        ("trees to the learner, /s", [f"{c['trees_per_s']:,.3f}" for c in columns]),
        ("trees to the learner, MB/s", [f"{c['tree_bytes_per_s'] / 1e6:,.2f}" for c in columns]),
        (
            "of what one learner takes into its journal",
            [f"{c['tree_bytes_per_s'] / limits['tree_bytes_per_s']:.2%}" for c in columns],
        ),
        ("journal, GB a day", [f"{c['journal_bytes_a_day'] / 1e9:,.1f}" for c in columns]),
    ]
    head = (
        "| episodes at once | "
        + " | ".join(f"{size:,}" for size in SIZES)
        + " |\n|---|"
        + "---:|" * len(SIZES)
    )
    return head + "\n" + "\n".join(f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows)
