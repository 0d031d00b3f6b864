"""`trieline eval`, `show`, `export` and `import`: how good a policy is, and what it or others did."""

import argparse
import math
from typing import TYPE_CHECKING

from trieline.command_line.options import add_config_options, read_config
from trieline.common.errors import about_file
from trieline.common.program_log import start_log

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trieline.wire.messages import TreeDelivery
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

    export = verbs.add_parser("export", help="the sequences of a run as a table for other trainers")
    export.add_argument("run_dir", metavar="RUN", help="a run folder, or a journal folder")
    export.add_argument(
        "--out", metavar="FILE", help="FILE.jsonl or FILE.parquet (default: JSON Lines, to standard output)"
    )
    export.add_argument("--env", help="only trees of this environment")
    kind = export.add_mutually_exclusive_group()
    kind.add_argument(
        "--messages", action="store_true", help="conversations for tools that train on text, one a row"
    )
    kind.add_argument("--trees", action="store_true", help="whole trees, one a row")
    export.add_argument(
        "--min-return",
        type=float,
        metavar="R",
        help="of --messages, only sequences with at least this return",
    )
    export.add_argument(
        "--model", metavar="MODEL", help="whose tokens they are, where the recording doesn't say"
    )
    export.set_defaults(run=_export)

    chats = verbs.add_parser("import", help="recorded chats as a journal")
    chats.add_argument(
        "file", metavar="FILE", help="JSON Lines or Parquet of messages, with a reward or none"
    )
    chats.add_argument("--output", metavar="JOURNAL", required=True, help="a new folder")
    chats.add_argument(
        "--model", metavar="MODEL", required=True, help="in whose tokens: folder, hub name, built-in"
    )
    chats.add_argument(
        "--max-unusable",
        type=int,
        default=0,
        metavar="N",
        help="lines that may be no chat for this model (0)",
    )
    chats.set_defaults(run=_import)


def _eval(options: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from trieline.common.text import visible
    from trieline.launcher.evaluation import evaluate
    from trieline.wire.model_folder import tokenizer_folder

    start_log()
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
            Text(visible(env.env_id)),
            str(env.episodes),
            _figure(env.mean_return),
            _figure(env.pass_at_k),
            levels,
            Text(visible(broken)),
        )
    console.print(table)
    if options.json:
        with about_file(Path(options.json)):
            Path(options.json).write_text(json.dumps(report.to_dict(), indent=1), encoding="utf-8")
    return 0


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _show(options: argparse.Namespace) -> int:
    from rich.console import Console

    from trieline.config import ConfigError
    from trieline.launcher.recording import find_recording
    from trieline.launcher.tree_view import draw_tree

    if options.count < 1:
        msg = f"expected --count of at least 1, got {options.count}"
        raise ConfigError(msg)
    recording = find_recording(options.run_dir)
    found = recording.deliveries([options.env] if options.env else ())
    trees = _chosen(found, options.tree, options.count, recording.path)
    decode = recording.decoder()
    console = Console()
    for tree in trees:
        console.print(draw_tree(tree, decode=decode, advantages=_leaf_advantages(tree)))
    return 0


def _export(options: argparse.Namespace) -> int:
    import sys
    from pathlib import Path

    from trieline.config import ConfigError
    from trieline.launcher.export import SEQUENCES, export, write_json_lines
    from trieline.launcher.message_rows import MessageRows
    from trieline.launcher.recording import find_recording
    from trieline.launcher.tree_rows import TREES

    recording = find_recording(options.run_dir)
    deliveries = recording.deliveries([options.env] if options.env else ())
    if options.min_return is not None and not options.messages:
        msg = f"expected --min-return with --messages alone, got --min-return {options.min_return:g}"
        raise ConfigError(msg)
    conversations = None
    table = TREES if options.trees else SEQUENCES
    if options.messages:
        least = -math.inf if options.min_return is None else options.min_return
        conversations = MessageRows(recording.chat_reader(options.model), min_return=least)
        table = conversations.table
    if options.out is None:
        write_json_lines(table.rows(deliveries), sys.stdout)
    else:
        count = export(deliveries, Path(options.out), table)
        print(f"{count} {table.noun} in {options.out}")
    for reason, count in conversations.unread.most_common(5) if conversations else ():
        sys.stderr.write(
            f"trieline export: {count} sequences left out, since they can't be read back: {reason}\n"
        )
    return 0


def _import(options: argparse.Namespace) -> int:
    from pathlib import Path

    from trieline.common.program_log import start_log
    from trieline.launcher.chat_import import import_chats

    start_log()
    found = import_chats(
        Path(options.file), Path(options.output), model=options.model, max_unusable=options.max_unusable
    )
    print(
        f"{found.chats} chats in {options.output}: {found.trees} trees of {found.tokens} tokens "
        f"({found.sequence_tokens} as separate sequences)"
    )
    return 0


def _chosen(
    deliveries: "Iterator[TreeDelivery]", first: int, count: int, journal: "Path"
) -> "list[TrajectoryTree]":
    """`count` trees from number `first` on, which counts from the end if it is negative."""
    from collections import deque
    from itertools import islice

    from trieline.config import ConfigError

    if first >= 0:
        skipped = sum(1 for _ in islice(deliveries, first))
        chosen = [d.tree for d in islice(deliveries, count)]
        total = skipped + len(chosen)
    else:
        last = deque((d.tree for d in deliveries), maxlen=-first)
        chosen = list(last)[:count] if len(last) == -first else []
        total = len(last)
    if not chosen:
        msg = f"--tree: expected one of {total} trees in {journal}, got {first}"
        raise ConfigError(msg)
    return chosen


def _leaf_advantages(tree: "TrajectoryTree") -> list[float]:
    """The `group` advantage of each leaf: what can be known from the tree alone. NaN where it is broken."""
    from trieline.learner.batch.advantages import compared_with_each_other, group_advantages
    from trieline.learner.batch.episodes import episodes_among
    from trieline.learner.batch.sequences import tree_sequences

    scored = tree.scored_leaves()
    sequences = tree_sequences(tree, tree_index=0, leaves=scored)
    by_leaf: dict[int, float] = {}
    for members in compared_with_each_other(tree.comparison_groups[scored]):
        episodes, returns = episodes_among([sequences[b] for b in members])
        found = group_advantages(returns, episodes)
        by_leaf |= {scored[b]: float(a) for b, a in zip(members, found, strict=True)}
    return [by_leaf.get(leaf, float("nan")) for leaf in range(tree.num_leaves)]
