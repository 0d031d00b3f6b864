"""A trajectory tree drawn in the terminal: who wrote what, what it earned, how sure the policy was."""

from collections.abc import Callable, Sequence

import numpy as np
from rich.text import Text
from rich.tree import Tree

from trieline.common.arrays import Float32
from trieline.common.text import visible
from trieline.wire.tree import SCORED, TrajectoryTree

TEXT_WIDTH = 100


def draw_tree(
    tree: TrajectoryTree, *, decode: Callable[[Sequence[int]], str] | None, advantages: Sequence[float]
) -> Tree:
    """The whole tree.

    Args:
        tree: what to draw.
        decode: token ids to text; None shows token ids.
        advantages: [B] one a leaf, NaN where the leaf is broken.
    """
    episodes = tree.episodes()
    returns = [tree.episode_return(leaves) for leaves in tree.scored_episodes()]
    mean = f"{np.mean(returns):.2f}" if returns else "–"
    title = Text(visible(f"{tree.env_id}  {tree.task_id}"), style="bold")
    count = f"{tree.num_leaves} sequences"
    if len(episodes) < tree.num_leaves:
        count += f" in {len(episodes)} episode" + "s" * (len(episodes) > 1)
    title.append(f"  level {tree.level}, {count}, {tree.num_tokens} tokens, mean return {mean}", "dim")
    of_leaves = tree.sequence_returns()
    drawn = {-1: Tree(title, guide_style="dim")}
    leaves: dict[int, list[int]] = {}
    for leaf, node in enumerate(tree.leaf_nodes.tolist()):
        leaves.setdefault(node, []).append(leaf)
    for node, parent in enumerate(tree.parents.tolist()):
        label = _node_label(tree, node, decode)
        for leaf in leaves.get(node, []):
            label.append_text(_leaf_label(tree, leaf, of_leaves[leaf], advantages[leaf]))
        drawn[node] = drawn[parent].add(label)
    return drawn[-1]


def _node_label(tree: TrajectoryTree, node: int, decode: Callable[[Sequence[int]], str] | None) -> Text:
    run = tree.node_tokens(node)
    ids = tree.token_ids[run].tolist()
    sampled = bool(tree.sampled[node])
    label = Text("policy " if sampled else "context ", style="cyan" if sampled else "dim")
    if node in tree.edge_targets:
        label.append(f"node {node} ", style="dim")
    facts = [f"{len(ids)} tokens"]
    if sampled:
        versions = tree.policy_versions[run]
        low, high = int(versions.min()), int(versions.max())
        facts.append(f"version {low}" if low == high else f"versions {low}–{high}")
        about = "about " if tree.entropies_estimated else ""
        facts.append(f"entropy {about}{_mean_entropy(tree.entropies[run])}")
        facts.append(f"logprob {float(tree.behavior_logprobs[run].sum()):.2f}")
        if len(tree.mask_index) and (masked := int((tree.mask_index[run] >= 0).sum())):
            facts.append(f"{masked} under a mask")
    if tree.rewards[node] != 0:
        facts.append(f"reward {float(tree.rewards[node]):+.2f}")
    if tree.fork_causes[node]:
        facts.append(tree.fork_causes[node])
    facts += [
        f"{kind} to node {target}"
        for source, target, kind in zip(
            tree.edge_sources.tolist(), tree.edge_targets.tolist(), tree.edge_kinds, strict=True
        )
        if source == node
    ]
    label.append(f"[{', '.join(facts)}] ", style="dim")
    text = visible((decode(ids) if decode else str(ids)).strip().replace("\n", "⏎"))
    # The end of a context says what was asked, the beginning of a reply what was answered.
    shown = text[:TEXT_WIDTH] if sampled else text[-TEXT_WIDTH:]
    label.append(shown, style="default" if sampled else "dim italic")
    return label


def _mean_entropy(entropies: Float32) -> str:
    known = entropies[~np.isnan(entropies)]
    if len(known) == 0:
        return "unknown"
    of = "" if len(known) == len(entropies) else f" of {len(known)} tokens"
    return f"{float(known.mean()):.2f}{of}"


def _leaf_label(tree: TrajectoryTree, leaf: int, total: float, advantage: float) -> Text:
    cause = tree.leaf_causes[leaf]
    if cause != SCORED:
        return Text(f"  ✗ broken: {cause}", style="yellow")
    ending = "terminated" if tree.leaf_terminated[leaf] else "truncated"
    style = "bold green" if advantage > 0 else "bold red" if advantage < 0 else "bold"
    group = f", group {tree.leaf_groups[leaf]}" if len(tree.leaf_groups) else ""
    return Text(f"  ● return {total:.2f}, advantage {advantage:+.2f}, {ending}{group}", style=style)
