"""What `benchmarks.learning` runs: its studies, each setting as `trieline train --set` takes it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
LAGS = (0, 4, 16)
V_TRACE = ("learner.objective.advantage=vtrace", "learner.objective.loss=vtrace_pg")
GROUP = (
    "learner.objective.advantage=group",
    "learner.objective.loss=ppo_clip",
    "learner.objective.scale_rewards=group",
)
"""The recipe `smollm2` as it was when the study began; V-trace came out of it."""
CORRECTIONS = {
    "none": ("learner.objective.loss=pg",),
    "truncated": ("learner.objective.loss=tis",),
    "masked": ("learner.objective.loss=icepop",),
    "V-trace": V_TRACE,
}
SCALINGS = ("off", "sequence", "token")
ADVANTAGES = {
    "group": (),
    "tree": ("learner.objective.advantage=tree",),
    # Returns are not divided by their deviation then.
    "V-trace": (*V_TRACE, "learner.objective.scale_rewards=none"),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One line of a study's table."""

    study: str
    name: str
    lag: int = 0
    settings: tuple[str, ...] = ()
    """On top of the recipe's, as `--set` takes them."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is run with one recipe."""

    results: Path
    tokens: int
    run_seconds: float
    """Expected of a run, two at once on two cores that nothing else uses, until there is one to go by."""
    settings: tuple[Setting, ...]
    panels: dict[str, dict[str, tuple[str, str]]]
    """Of the picture: title to the lines' labels, each a study and a name."""
    baseline: tuple[str, str] | None = None
    """What the others are held against."""
    overrides: tuple[str, ...] = ()
    """Of all runs."""


def forked(branching: str) -> tuple[str, ...]:
    """4 rollouts and 4 forks instead of 8 rollouts."""
    return ("learner.group_size=4", f"actor.branching={branching}", "actor.branches=4")


def scaling_settings() -> Iterator[Setting]:
    for scaling in SCALINGS:
        settings = (f"learner.objective.entropy_scaling={scaling}",)
        yield Setting(study="scaling", name=scaling, settings=settings)


def tiny_settings() -> Iterator[Setting]:
    for lag in LAGS:
        for name, settings in CORRECTIONS.items():
            yield Setting(study="lag", name=f"{name}, lag {lag}", lag=lag, settings=settings)
    yield from scaling_settings()
    for branching in ("none", "random", "entropy"):
        settings = ADVANTAGES["tree"] + (() if branching == "none" else forked(branching))
        yield Setting(study="forks", name=branching, settings=settings)


def smollm2_settings() -> Iterator[Setting]:
    yield from scaling_settings()
    for name, settings in ADVANTAGES.items():
        if name != "group":
            yield Setting(study="advantages", name=name, settings=settings)
    for name, settings in ADVANTAGES.items():
        yield Setting(study="advantages", name=f"{name}, forks", settings=settings + forked("entropy"))


BASELINE = ("scaling", "off")
RECIPES = {
    "tiny": Recipe(
        results=RESULTS / "learning.json",
        tokens=24_000,
        run_seconds=40,
        settings=tuple(tiny_settings()),
        panels={
            **{f"lag {lag}": {name: ("lag", f"{name}, lag {lag}") for name in CORRECTIONS} for lag in LAGS},
            "scaling": {name: ("scaling", name) for name in SCALINGS},
            "forks": {name: ("forks", name) for name in ("none", "random", "entropy")},
        },
    ),
    "smollm2": Recipe(
        results=RESULTS / "learning_smollm2.json",
        tokens=24_000,
        run_seconds=330,
        settings=tuple(smollm2_settings()),
        panels={
            "entropy scaling": {name: ("scaling", name) for name in SCALINGS},
            "8 rollouts": {
                name: BASELINE if name == "group" else ("advantages", name) for name in ADVANTAGES
            },
            "4 rollouts, 4 forks by entropy": {
                **{name: ("advantages", f"{name}, forks") for name in ADVANTAGES},
                "group, 8 rollouts": BASELINE,
            },
        },
        baseline=BASELINE,
        overrides=("envs.1.episode.max_tokens=64", *GROUP),
    ),
}
