"""`trieline eval` and `trieline show`: how good a policy is, and what it did."""

import argparse
from typing import TYPE_CHECKING, Any

from trieline.command_line.options import add_config_options, log_to, read_config

if TYPE_CHECKING:
    from trieline.wire.tree import TrajectoryTree


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs of this module to the command."""
    evaluation = verbs.add_parser("eval", help="held-out success of the policy that a policy server serves")
    add_config_options(evaluation)
    evaluation.add_argument("--json", metavar="FILE", help="keep the whole report, transcripts included")
    evaluation.set_defaults(run=_eval)

    show = verbs.add_parser("show", help="draw trajectory trees of a run in the terminal")
    show.add_argument("run_dir", metavar="RUN", help="a run folder, or a journal folder")
    show.add_argument(
        "--tree", type=int, default=-1, help="which tree of the journal; negative: from its end"
    )
    show.add_argument("--count", type=int, default=1, help="how many trees from there on")
    show.add_argument("--env", help="only trees of this environment")
    show.set_defaults(run=_show)


def _eval(options: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from trieline.launcher.evaluation import evaluate
    from trieline.wire.model_folder import tokenizer_folder

    log_to(None)
    config = read_config(options)
    console = Console()
    with console.status("waiting for the policy server") as status:
        report = evaluate(
            config,
            tokenizer_folder(config.model.path),
            progress=lambda done, total: status.update(f"{done} of {total} tasks"),
        )
    how = "greedy" if report.temperature == 0 else f"temperature {report.temperature:g}"
    table = Table(title=f"held-out success, {how}, policy versions {report.policy_versions}")
    for heading in ("environment", "episodes", "avg@k", "pass@k", "by level", "broken"):
        table.add_column(heading)
    for env in report.envs:
        levels = ", ".join(f"{level.level}: {_figure(level.mean_return)}" for level in env.levels)
        broken = ", ".join(f"{cause} {count}" for cause, count in env.broken.items())
        table.add_row(
            env.env_id, str(env.episodes), _figure(env.mean_return), _figure(env.pass_at_k), levels, broken
        )
    console.print(table)
    if options.json:
        Path(options.json).write_text(json.dumps(report.to_dict(), indent=1))
    return 0


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _show(options: argparse.Namespace) -> int:
    from itertools import islice
    from pathlib import Path

    from rich.console import Console

    from trieline.config import ConfigError
    from trieline.launcher.run_folder import RunFolder
    from trieline.launcher.tree_view import draw_tree
    from trieline.wire.journal import read_journal

    path = Path(options.run_dir)
    config = RunFolder.open(options.run_dir).load_config() if (path / "config.toml").is_file() else None
    journal = path / "journal" if config else path
    trees = [d.tree for d in read_journal(journal) if options.env in (None, d.tree.env_id)]
    first = options.tree if options.tree >= 0 else len(trees) + options.tree
    if not 0 <= first < len(trees):
        msg = f"--tree: expected one of {len(trees)} trees in {journal}, got {options.tree}"
        raise ConfigError(msg)
    decode = _decoder(config.model.path) if config else None
    console = Console()
    for tree in islice(trees, first, first + options.count):
        console.print(draw_tree(tree, decode=decode, advantages=_leaf_advantages(tree)))
    return 0


def _leaf_advantages(tree: "TrajectoryTree") -> list[float]:
    """The `group` advantage of each leaf: what can be known from the tree alone. NaN where it is broken."""
    import numpy as np

    from trieline.learner.batch.advantages import group_advantages

    scored = list(tree.scored_leaves())
    found = group_advantages(np.array([tree.sequence_return(b) for b in scored]))
    by_leaf = dict(zip(scored, found.tolist(), strict=True))
    return [by_leaf.get(leaf, float("nan")) for leaf in range(tree.num_leaves)]


def _decoder(model_path: str) -> Any:
    from trieline.wire.errors import ModelFolderError
    from trieline.wire.model_folder import tokenizer_folder

    try:
        folder = tokenizer_folder(model_path)
    except ModelFolderError:
        return None  # token ids are shown instead
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=False)
