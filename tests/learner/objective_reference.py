"""The objective in slow motion: every sequence alone through a plain causal model, loops over tokens.

Written from the formulas, with nothing of the trie or of the learner's columns; what it shares with the code
under test is the configuration and the trees.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trieline.learner.objective_config import ObjectiveConfig
from trieline.wire.tree import TrajectoryTree

Mask = tuple[int, ...]
Prefix = tuple[tuple[int, Mask], ...]

MOST = 100.0
"""The ratio beyond which none counts for more."""


@dataclass
class Rollout:
    """One scored sequence, with what the plain model says of it. Index t speaks of token t."""

    tree: int
    ids: list[int]
    masks: list[Mask]
    """The tokens that each token could be; (): any."""
    sampled: list[bool]
    mu: list[float]
    recorded_entropy: list[float]
    reward: list[float]
    terminated: bool
    logprob: list[Tensor]
    entropy: list[Tensor]
    value: list[Tensor]
    """value[t]: of the state that ends in token t."""
    reference_logprob: list[float]

    @property
    def actions(self) -> list[int]:
        return [t for t in range(1, len(self.ids)) if self.sampled[t]]

    @property
    def total(self) -> float:
        return sum(self.reward)

    def prefix(self, t: int) -> Prefix:
        """Two are the same if their tokens are, and the masks under which these were sampled."""
        return tuple(zip(self.ids[: t + 1], self.masks[: t + 1], strict=True))


def rollouts(
    trees: list[TrajectoryTree],
    config: ObjectiveConfig,
    plain: Any,
    value_head: Any = None,
    reference: Any = None,
) -> list[Rollout]:
    result = []
    for i, tree in enumerate(trees):
        for leaf in range(tree.num_leaves):
            if tree.leaf_causes[leaf]:
                continue
            columns: dict[str, list[Any]] = {
                name: [] for name in ("ids", "masks", "sampled", "mu", "entropy", "reward")
            }
            for node in tree.path(int(tree.leaf_nodes[leaf])):
                for j in range(tree.node_offsets[node], tree.node_offsets[node + 1]):
                    columns["ids"].append(int(tree.token_ids[j]))
                    columns["masks"].append(() if config.loss == "sft" else _mask(tree, j))
                    columns["sampled"].append(bool(tree.sampled[node]))
                    columns["mu"].append(float(tree.behavior_logprobs[j]))
                    columns["entropy"].append(float(tree.entropies[j]))
                    is_last = j == tree.node_offsets[node + 1] - 1
                    columns["reward"].append(float(tree.rewards[node]) if is_last else 0.0)
            result.append(
                _run(i, columns, bool(tree.leaf_terminated[leaf]), config, plain, value_head, reference)
            )
    return result


def _mask(tree: TrajectoryTree, token: int) -> Mask:
    if not tree.num_masks or tree.mask_index[token] < 0:
        return ()
    runs = tree.mask(int(tree.mask_index[token])).tolist()
    return tuple(v for first, stop in zip(runs[0::2], runs[1::2], strict=True) for v in range(first, stop))


def _under_mask(row: Tensor, mask: Mask) -> tuple[Tensor, list[int]]:
    """The log-probabilities of `row` over the tokens that could be sampled alone, and which those are."""
    tokens = list(mask) or list(range(len(row)))
    kept = row[tokens]
    return kept - torch.logsumexp(kept, 0), tokens


def _run(
    tree: int,
    columns: dict[str, list[Any]],
    terminated: bool,
    config: ObjectiveConfig,
    plain: Any,
    value_head: Any,
    reference: Any,
) -> Rollout:
    ids = torch.tensor([columns["ids"]])
    output = plain(ids, output_hidden_states=True)
    table = torch.log_softmax(output.logits[0] / config.temperature, dim=-1)
    zero = torch.zeros((), dtype=table.dtype)
    logprob, entropy, reference_logprob = [zero], [zero], [0.0]
    for t in range(1, len(columns["ids"])):
        row, tokens = _under_mask(table[t - 1], columns["masks"][t])
        logprob.append(row[tokens.index(columns["ids"][t])])
        entropy.append(-(row.exp() * row).sum())
    if reference is not None:
        with torch.no_grad():
            other = torch.log_softmax(reference(ids).logits[0] / config.temperature, dim=-1)
        for t in range(1, len(columns["ids"])):
            row, tokens = _under_mask(other[t - 1], columns["masks"][t])
            reference_logprob.append(float(row[tokens.index(columns["ids"][t])]))
    value = list(value_head(output.hidden_states[-1][0])) if value_head is not None else []
    return Rollout(
        tree=tree,
        ids=columns["ids"],
        masks=columns["masks"],
        sampled=columns["sampled"],
        mu=columns["mu"],
        recorded_entropy=columns["entropy"],
        reward=columns["reward"],
        terminated=terminated,
        logprob=logprob,
        entropy=entropy,
        value=value,
        reference_logprob=reference_logprob,
    )


def reference_loss(
    trees: list[TrajectoryTree],
    config: ObjectiveConfig,
    plain: Any,
    value_head: Any = None,
    reference: Any = None,
) -> Tensor | None:
    """The loss of the whole batch, with its graph; None if nothing is trained on."""
    everyone = rollouts(trees, config, plain, value_head, reference)
    groups = [[r for r in everyone if r.tree == i] for i in range(len(trees))]
    kept: list[list[Rollout]] = []
    for group in groups:
        skips = config.skip_zero_std and config.advantage != "vtrace" and config.loss != "sft"
        if group and not (skips and len({r.total for r in group}) == 1):
            kept.append(group)
    batch = [r for group in kept for r in group]
    if not batch:
        return None
    all_std = float(np.std([r.total for r in everyone]))
    num_actions = sum(len(r.actions) for r in batch)
    loss = torch.zeros((), dtype=torch.float64)
    for group in kept:
        group_actions = sum(len(r.actions) for r in group)
        std = {"none": None, "group": float(np.std([r.total for r in group])), "batch": all_std}
        for r in group:
            weight = {
                "token": 1 / num_actions,
                "rollout": 1 / (len(batch) * len(r.actions)),
                "tree": 1 / (len(kept) * group_actions),
            }[config.norm]
            for t in r.actions:
                advantage = _advantage(r, t, group, config)
                if (divisor := std[config.scale_rewards]) is not None and config.advantage != "vtrace":
                    advantage = advantage / (divisor + 1e-6)
                advantage *= _entropy_scale(r, t, batch, config)
                loss = loss + weight * token_loss(r, t, advantage, config)
                if config.advantage == "vtrace" and config.loss != "sft":
                    target = slow_vs(r.prefix(t - 1), group, config)
                    loss = loss + weight * config.value_coef * 0.5 * (r.value[t - 1] - target) ** 2
    return loss


def token_loss(r: Rollout, t: int, advantage: float, config: ObjectiveConfig) -> Tensor:
    l = r.logprob[t]  # noqa: E741
    ratio = min(MOST, math.exp(float(l.detach()) - r.mu[t]))
    if config.loss == "sft":
        loss = -l
    elif config.loss == "vtrace_pg":
        loss = -min(config.rho_pg_bar, ratio) * advantage * l
    elif config.loss == "tis":
        loss = -min(config.tis_cap, ratio) * advantage * l
    elif config.loss == "pg":
        loss = -advantage * l
    elif config.loss == "icepop":
        loss = -(ratio if config.icepop_low <= ratio <= config.icepop_high else 0.0) * advantage * l
    else:
        exact = torch.exp(l - r.mu[t]) if ratio < MOST else torch.tensor(MOST, dtype=l.dtype)
        low, high = 1 - config.clip_low, 1 + config.clip_high
        clipped = exact if low < ratio < high else torch.tensor(min(max(ratio, low), high), dtype=l.dtype)
        plain_term, clipped_term = exact * advantage, clipped * advantage
        loss = -(plain_term if float(plain_term.detach()) <= float(clipped_term.detach()) else clipped_term)
    loss = loss - config.entropy_coef * r.entropy[t]
    if config.kl_coef > 0:
        d = l - r.reference_logprob[t]
        detached = float(d.detach())
        # The gradient of k1 as a penalty is d * grad l; its value is d.
        k1 = detached + detached * (l - float(l.detach()))
        # The tangent of k3 where the ratio reaches the bound.
        far = math.log(MOST)
        k3 = torch.exp(-d) - 1 + d if detached > -far else MOST - 1 - far + (1 - MOST) * (d + far)
        loss = loss + config.kl_coef * {"k1": k1, "k2": d * d / 2, "k3": k3}[config.kl_estimator]
    return loss


def _advantage(r: Rollout, t: int, group: list[Rollout], config: ObjectiveConfig) -> float:
    if config.loss == "sft":
        return 0.0
    if config.advantage == "group":
        others = [o.total for o in group if o is not r]
        return r.total - sum(others) / len(others) if others else 0.0
    if config.advantage == "tree":
        return _tree_advantage(r, t, group)
    return _pg_advantage(r, t, group, config)


def _tree_advantage(r: Rollout, t: int, group: list[Rollout]) -> float:
    """Back to the token where the set of rollouts on this prefix became what it is now."""

    def through(u: int) -> list[Rollout]:
        return [o for o in group if u < 0 or (len(o.ids) > u and o.prefix(u) == r.prefix(u))]

    here = through(t)
    u = t
    while u >= 0 and len(through(u - 1)) == len(here):
        u -= 1
    if u < 0:
        return 0.0
    parent = through(u - 1)
    return sum(o.total for o in here) / len(here) - sum(o.total for o in parent) / len(parent)


def _entropy_scale(r: Rollout, t: int, batch: list[Rollout], config: ObjectiveConfig) -> float:
    if config.entropy_scaling == "off":
        return 1.0

    def mean(o: Rollout) -> float:
        return sum(o.recorded_entropy[u] for u in o.actions) / len(o.actions)

    if config.entropy_scaling == "sequence":
        scale = mean(r) / (sum(mean(o) for o in batch) / len(batch))
    else:
        tokens = [o.recorded_entropy[u] for o in batch for u in o.actions]
        scale = r.recorded_entropy[t] / (sum(tokens) / len(tokens))
    return min(max(scale, config.entropy_scale_min), config.entropy_scale_max)


# ---- V-trace on a tree, recursively over prefixes ---------------------------------------------------------


def _on_prefix(prefix: Prefix, group: list[Rollout]) -> list[Rollout]:
    return [o for o in group if o.prefix(len(prefix) - 1) == prefix]


def _goes_on(o: Rollout, prefix: Prefix) -> bool:
    return len(o.ids) > len(prefix)


def _value(prefix: Prefix, group: list[Rollout]) -> float:
    """What the value head says, or what comes after it where only context follows."""
    t = len(prefix)
    going_on = [o for o in _on_prefix(prefix, group) if _goes_on(o, prefix)]
    if not going_on or any(o.sampled[t] for o in going_on):
        return float(_on_prefix(prefix, group)[0].value[t - 1].detach())
    return sum(
        o.reward[t] + (_value(o.prefix(t), group) if _goes_on(o, o.prefix(t)) or not o.terminated else 0.0)
        for o in going_on
    ) / len(going_on)


def _edge(child: Prefix, group: list[Rollout], config: ObjectiveConfig) -> tuple[float, float, float]:
    """rho, c and gamma of the token that ends `child`."""
    t = len(child) - 1
    takers = [o for o in _on_prefix(child, group) if o.sampled[t]]
    if not takers:
        return 1.0, 1.0, 1.0
    return edge_weights(takers[0], t, sum(o.mu[t] for o in takers) / len(takers), config)


def edge_weights(o: Rollout, t: int, mu: float, config: ObjectiveConfig) -> tuple[float, float, float]:
    """rho, c and gamma of a sampled token with this log-probability of the policy that sampled it."""
    ratio = min(MOST, math.exp(float(o.logprob[t].detach()) - mu))
    return min(config.rho_bar, ratio), config.lam * min(config.c_bar, ratio), config.gamma


def _after(o: Rollout, child: Prefix, group: list[Rollout], config: ObjectiveConfig) -> tuple[float, float]:
    """V and vs of what comes after `child` for a rollout through it."""
    if _goes_on(o, child):
        return _value(child, group), slow_vs(child, group, config)
    if o.terminated:
        return 0.0, 0.0
    return _value(child, group), _value(child, group)


def slow_vs(prefix: Prefix, group: list[Rollout], config: ObjectiveConfig) -> float:
    """vs(s), each rollout that goes on from s being one share of its child."""
    going_on = [o for o in _on_prefix(prefix, group) if _goes_on(o, prefix)]
    value, total = _value(prefix, group), 0.0
    for o in going_on:
        child = o.prefix(len(prefix))
        rho, c, gamma = _edge(child, group, config)
        v_next, vs_next = _after(o, child, group, config)
        total += rho * (o.reward[len(prefix)] + gamma * v_next - value) + gamma * c * (vs_next - v_next)
    return value + total / len(going_on)


def _pg_advantage(r: Rollout, t: int, group: list[Rollout], config: ObjectiveConfig) -> float:
    child = r.prefix(t)
    alike = [
        o
        for o in _on_prefix(child, group)
        if _goes_on(o, child) == _goes_on(r, child) and (_goes_on(r, child) or o.terminated == r.terminated)
    ]
    reward = sum(o.reward[t] for o in alike) / len(alike)
    _, _, gamma = _edge(child, group, config)
    return reward + gamma * _after(r, child, group, config)[1] - _value(r.prefix(t - 1), group)
