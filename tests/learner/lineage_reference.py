"""The objective of trees with edges in slow motion: every sequence alone, sums over sets of episodes.

Beside `objective_reference`, from which it has what a plain model says of a sequence and the loss of a token.
States of V-trace are tokens of the tree.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.learner.objective_reference import Rollout, edge_weights, rollouts, token_loss
from trieline.learner.objective_config import ObjectiveConfig
from trieline.wire.tree import TrajectoryTree

After = tuple[float, float]
"""V and vs of what comes after a token."""


@dataclass
class Member:
    """A sequence that counts."""

    leaf: int
    rollout: Rollout
    path: list[int]
    """Tree tokens."""
    nodes: list[int]
    """Of the tree, of each token."""
    episodes: set[int]
    own_from: int = 0

    @property
    def actions(self) -> list[int]:
        return [t for t in self.rollout.actions if t >= self.own_from]


@dataclass
class Task:
    """One tree."""

    tree: TrajectoryTree
    members: list[Member]
    returns: dict[int, float]
    """By the last leaf of each episode."""
    config: ObjectiveConfig
    known: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        done: dict[int, set[int]] = {}
        sampled = self.tree.sampled
        for m in sorted(self.members, key=lambda m: (sorted({n for n in m.nodes if sampled[n]}), m.leaf)):
            own = {node for node in m.nodes if not m.episodes <= done.get(node, set())}
            if not any(sampled[node] for node in own):
                own = set()
            m.own_from = sum(node not in own for node in m.nodes)
            for node in own:
                done.setdefault(node, set()).update(m.episodes)

    # ---- Advantages ----

    def advantage(self, m: Member, t: int) -> float:
        if self.config.advantage == "group":
            others = [r for e, r in self.returns.items() if e not in m.episodes]
            own = [self.returns[e] for e in m.episodes]
            return float(np.mean(own) - np.mean(others)) if others else 0.0
        if self.config.advantage == "vtrace":
            return self.pg_advantage(m, t)

        def through(u: int) -> set[int]:
            prefix = m.rollout.ids[: u + 1]
            return {e for o in self.members if o.rollout.ids[: u + 1] == prefix for e in o.episodes}

        def mean(ends: set[int]) -> float:
            return float(np.mean([self.returns[e] for e in sorted(ends)]))

        here = through(t)
        while t >= 0 and through(t - 1) == here:
            t -= 1
        return mean(here) - mean(through(t - 1)) if t >= 0 else 0.0

    # ---- V-trace ----

    def counted(self, token: int) -> list[Member]:
        """The sequences that carry a token."""
        return [m for m in self.members if token in m.path[m.own_from :]]

    def next_token(self, m: Member, token: int) -> int | None:
        place = m.path.index(token) + 1
        return m.path[place] if place < len(m.path) else None

    def leads(self, m: Member) -> list[int]:
        """The nodes to which edges lead from its end, where those are of a sequence."""
        end = int(self.tree.leaf_nodes[m.leaf])
        present = {node for o in self.members for node in o.nodes}
        targets = self.tree.edge_targets[self.tree.edge_sources == end].tolist()
        return [t for t in targets if t in present]

    def kind(self, m: Member, token: int) -> str:
        if self.next_token(m, token) is not None:
            return "goes on"
        return "leads on" if self.leads(m) else "terminated" if m.rollout.terminated else "truncated"

    def reward(self, m: Member, token: int) -> float:
        return m.rollout.reward[m.path.index(token)]

    def after(self, m: Member, token: int) -> After:
        """Of one sequence, after `token` of it."""
        kind = self.kind(m, token)
        if kind == "goes on":
            return self.value(token), self.vs(token)
        if kind == "truncated":
            return self.value(token), self.value(token)
        if kind == "terminated":
            return 0.0, 0.0
        value, target = np.mean([self.at_node(node) for node in self.leads(m)], axis=0).tolist()
        return value, target

    def at_node(self, node: int) -> After:
        """V and vs where an edge leads to."""
        first, last = self.tree.node_offsets[node : node + 2].tolist()
        if not self.tree.sampled[node]:
            v_next, vs_next = self.mean_after(last - 1)
            return self.mean_reward(last - 1) + v_next, self.mean_reward(last - 1) + vs_next
        m = next(o for o in self.members if first in o.path)
        value = self.value(m.path[m.path.index(first) - 1])
        return value, value + self.correction(m, first, value)

    def mean_after(self, token: int) -> After:
        if ("after", token) not in self.known:
            found = np.mean([self.after(m, token) for m in self.counted(token)], axis=0)
            self.known["after", token] = tuple(found.tolist())
        after: After = self.known["after", token]
        return after

    def value(self, token: int) -> float:
        """What the value head says of a state, or what comes after it where only context follows."""
        if ("value", token) not in self.known:
            through = [m for m in self.members if token in m.path]
            nexts = [n for m in through if (n := self.next_token(m, token)) is not None]
            going_on = [m for m in self.counted(token) if self.next_token(m, token) is not None]
            if not going_on or any(self.is_action(n) for n in nexts):
                m = through[0]
                self.known["value", token] = float(m.rollout.value[m.path.index(token)].detach())
            else:
                self.known["value", token] = sum(
                    self.mean_reward(n) + self.mean_after(n)[0]
                    for n in (self.next_token(m, token) for m in going_on)
                    if n is not None
                ) / len(going_on)
        value: float = self.known["value", token]
        return value

    def is_action(self, token: int) -> bool:
        return bool(self.tree.sampled[np.searchsorted(self.tree.node_offsets, token, side="right") - 1])

    def mean_reward(self, token: int) -> float:
        return float(np.mean([self.reward(m, token) for m in self.counted(token)]))

    def vs(self, token: int) -> float:
        """The target of a state."""
        if ("vs", token) in self.known:
            target: float = self.known["vs", token]
            return target
        going_on = [m for m in self.counted(token) if self.next_token(m, token) is not None]
        value, total = self.value(token), 0.0
        for m in going_on:
            child = self.next_token(m, token)
            assert child is not None
            total += self.correction(m, child, value)
        self.known["vs", token] = value + (total / len(going_on) if going_on else 0.0)
        return self.vs(token)

    def correction(self, m: Member, child: int, value: float) -> float:
        """What a child adds to the value of the state before it."""
        rho, c, gamma = self.edge(m, child)
        v_next, vs_next = self.mean_after(child)
        return rho * (self.mean_reward(child) + gamma * v_next - value) + gamma * c * (vs_next - v_next)

    def edge(self, m: Member, token: int) -> tuple[float, float, float]:
        if not self.is_action(token):
            return 1.0, 1.0, 1.0
        return edge_weights(m.rollout, m.path.index(token), m.rollout.mu[m.path.index(token)], self.config)

    def pg_advantage(self, m: Member, t: int) -> float:
        token = m.path[t]
        alike = [o for o in self.counted(token) if self.kind(o, token) == self.kind(m, token)]
        earned = float(np.mean([self.reward(o, token) for o in alike]))
        return earned + self.config.gamma * self.after(m, token)[1] - self.value(m.path[t - 1])


def tasks(
    trees: list[TrajectoryTree], config: ObjectiveConfig, plain: Any, value_head: Any = None
) -> list[Task]:
    """What counts of each tree."""
    by_tree: list[Task] = []
    everyone = rollouts(trees, config, plain, value_head)
    for i, tree in enumerate(trees):
        unbroken = [leaf for leaf in range(tree.num_leaves) if not tree.leaf_causes[leaf]]
        own = [r for r in everyone if r.tree == i]
        counting = [leaves for leaves in tree.episodes() if not tree.leaf_causes[leaves[-1]]]
        members = []
        for leaf, rollout in zip(unbroken, own, strict=True):
            ends = {leaves[-1] for leaves in counting if leaf in leaves}
            path = tree.sequence_index(leaf).tolist()
            nodes = tree.token_nodes[path].tolist()
            if ends:
                members.append(Member(leaf, rollout, path, nodes, ends))
        returns = {}
        for leaves in counting:
            if any(leaves[-1] in m.episodes for m in members):
                nodes = sorted({n for leaf in leaves for n in tree.path(int(tree.leaf_nodes[leaf]))})
                returns[leaves[-1]] = sum(float(tree.rewards[n]) for n in nodes)
        by_tree.append(Task(tree, members, returns, config))
    return by_tree


def lineage_loss(
    trees: list[TrajectoryTree], config: ObjectiveConfig, plain: Any, value_head: Any = None
) -> Tensor | None:
    """The loss of the whole batch, with its graph; None if nothing is trained on."""
    everyone = tasks(trees, config, plain, value_head)
    skips = config.skip_zero_std and config.advantage != "vtrace" and config.loss != "sft"
    kept = [t for t in everyone if t.returns and not (skips and np.ptp(list(t.returns.values())) < 1e-6)]
    for task in kept:
        task.members = [m for m in task.members if m.actions]
    kept = [task for task in kept if task.members]
    if not kept:
        return None
    all_std = float(np.std([r for t in everyone for r in t.returns.values()]))
    # (tree, last leaf): the sampled tokens of each episode, each once.
    rollout_tokens: dict[tuple[int, int], list[float]] = {}
    for i, task in enumerate(kept):
        for m in task.members:
            for e in m.episodes:
                rollout_tokens.setdefault((i, e), []).extend(m.rollout.recorded_entropy[t] for t in m.actions)
    num_actions = sum(len(m.actions) for task in kept for m in task.members)
    mean_of = {key: float(np.mean(tokens)) for key, tokens in rollout_tokens.items()}
    all_entropies = [m.rollout.recorded_entropy[t] for k in kept for m in k.members for t in m.actions]
    loss = torch.zeros((), dtype=torch.float64)
    for i, task in enumerate(kept):
        tree_actions = sum(len(m.actions) for m in task.members)
        std = {"none": None, "group": float(np.std(list(task.returns.values()))), "batch": all_std}
        for m in task.members:
            weight = {
                "token": 1 / num_actions,
                "rollout": sum(1 / len(rollout_tokens[i, e]) for e in m.episodes) / len(rollout_tokens),
                "tree": 1 / (len(kept) * tree_actions),
            }[config.norm]
            for t in m.actions:
                own = float(np.mean([mean_of[i, e] for e in m.episodes]))
                scale = {
                    "off": 1.0,
                    "sequence": own / float(np.mean(list(mean_of.values()))),
                    "token": m.rollout.recorded_entropy[t] / float(np.mean(all_entropies)),
                }[config.entropy_scaling]
                if config.entropy_scaling != "off":
                    scale = min(max(scale, config.entropy_scale_min), config.entropy_scale_max)
                advantage = 0.0 if config.loss == "sft" else task.advantage(m, t)
                if (divisor := std[config.scale_rewards]) is not None and config.advantage != "vtrace":
                    advantage = advantage / (divisor + 1e-6)
                loss = loss + weight * token_loss(m.rollout, t, advantage * scale, config)
                if config.needs_value_head:
                    error = m.rollout.value[t - 1] - task.vs(m.path[t - 1])
                    loss = loss + weight * config.value_coef * 0.5 * error**2
    return loss
