"""Rollouts of one task become one tree: the prompt is shared, a fork hangs where it left its origin.

The order of nodes follows the rollouts' numbers, not which of them was faster.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from trieline.actors.rollout import Rollout
from trieline.common.arrays import Int32
from trieline.common.prefix import common_prefix
from trieline.wire.messages import Completion
from trieline.wire.tree import SCORED, TrajectoryTree

T = TypeVar("T", np.int32, np.float32)

NO_PROMPT = np.zeros(1, dtype=np.int32)
"""Stands for the prompt of a task that no rollout could begin: a tree has at least one token."""


class TreeBuilder:
    """The columns of a tree, grown node by node."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._runs: list[Int32] = []
        self._completions: list[Completion | None] = []
        self._rewards: list[float] = []
        self._fork_causes: list[str] = []
        self._leaves: list[tuple[int, bool, str, int]] = []
        self._masks: dict[bytes, int] = {}
        self._mask_index: dict[int, Int32] = {}
        self._edges: dict[tuple[int, int], str] = {}
        self._has_children: set[int] = set()

    def add_context(self, parent: int, tokens: Int32, *, fork_cause: str) -> int:
        """A run of the context; no tokens: no node, and the parent is returned."""
        return self._add(parent, tokens, None, fork_cause) if len(tokens) else parent

    def add_sampled(self, parent: int, completion: Completion, *, fork_cause: str) -> int:
        """A reply, with its masks. `fork_cause` counts only if something follows `parent` already."""
        node = self._add(parent, completion.token_ids, completion, fork_cause)
        if len(completion.mask_index):
            runs, offsets = completion.mask_runs, completion.mask_offsets.tolist()
            numbers = [self._mask(runs[2 * a : 2 * b]) for a, b in pairwise(offsets)]
            # The last one stands for index -1: no mask.
            self._mask_index[node] = np.array([*numbers, -1], np.int32)[completion.mask_index]
        return node

    def add_reward(self, node: int, reward: float) -> None:
        """Received after the last token of `node`."""
        self._rewards[node] += reward

    def add_leaf(self, node: int, *, terminated: bool, cause: str, group: int = 0) -> None:
        """A sequence ends with `node`. It is compared with the others of its `group` (`leaf_groups`)."""
        self._leaves.append((node, terminated and cause == SCORED, cause, group))

    def add_edge(self, source: int, target: int, *, kind: str) -> None:
        """Text went on from the end of `source` to `target`, a later node: one of `EDGE_KINDS`."""
        self._edges[source, target] = kind

    def build(self, *, env_id: str, task_id: str, level: int, info: Mapping[str, str]) -> TrajectoryTree:
        """The tree of everything added so far."""
        lengths = [len(run) for run in self._runs]
        return TrajectoryTree(
            env_id=env_id,
            task_id=task_id,
            level=level,
            parents=np.asarray(self._parents, dtype=np.int32),
            node_offsets=np.cumsum([0, *lengths]).astype(np.int32),
            sampled=np.asarray([c is not None for c in self._completions]),
            rewards=np.asarray(self._rewards, dtype=np.float32),
            fork_causes=tuple(self._fork_causes),
            token_ids=np.concatenate(self._runs).astype(np.int32, copy=False),
            behavior_logprobs=self._column("logprobs", 0.0, np.float32),
            entropies=self._column("entropies", 0.0, np.float32),
            policy_versions=self._column("policy_versions", -1, np.int32),
            leaf_nodes=np.asarray([leaf[0] for leaf in self._leaves], dtype=np.int32),
            leaf_terminated=np.asarray([leaf[1] for leaf in self._leaves], dtype=np.bool_),
            leaf_causes=tuple(leaf[2] for leaf in self._leaves),
            info=dict(info),
            **self._later_columns(),
        )

    def _later_columns(self) -> dict[str, Any]:
        """Those of the tree's columns that have a default, as far as something was added to them."""
        columns: dict[str, Any] = {}
        if any(group for *_, group in self._leaves):
            columns["leaf_groups"] = np.asarray([leaf[3] for leaf in self._leaves], dtype=np.int32)
        if self._masks:
            runs = [np.frombuffer(mask, dtype=np.int32) for mask in self._masks]
            columns["mask_index"] = np.concatenate(
                [
                    self._mask_index.get(node, np.full(len(run), -1, np.int32))
                    for node, run in enumerate(self._runs)
                ]
            )
            columns["mask_offsets"] = np.cumsum([0, *(len(r) // 2 for r in runs)]).astype(np.int32)
            columns["mask_runs"] = np.concatenate(runs)
        if self._edges:
            ends = np.asarray(list(self._edges), dtype=np.int32)
            columns["edge_sources"], columns["edge_targets"] = ends[:, 0].copy(), ends[:, 1].copy()
            columns["edge_kinds"] = tuple(self._edges.values())
        if any(one.entropies_estimated for one in self._completions if one is not None):
            columns["entropies_estimated"] = True
        return columns

    def _mask(self, runs: Int32) -> int:
        return self._masks.setdefault(runs.tobytes(), len(self._masks))

    def _add(self, parent: int, tokens: Int32, completion: Completion | None, fork_cause: str) -> int:
        self._parents.append(parent)
        self._runs.append(tokens)
        self._completions.append(completion)
        self._rewards.append(0.0)
        self._fork_causes.append(fork_cause if parent in self._has_children else "")
        self._has_children.add(parent)
        return len(self._parents) - 1

    def _column(self, name: str, neutral: float, dtype: type[T]) -> npt.NDArray[T]:
        runs = zip(self._runs, self._completions, strict=True)
        return np.concatenate(
            [
                np.full(len(r), neutral, dtype) if c is None else getattr(c, name).astype(dtype)
                for r, c in runs
            ]
        )


def build_tree(
    rollouts: Sequence[Rollout],
    *,
    env_id: str,
    level: int | None,
    group_size: int,
    info: Mapping[str, str],
    task_id: str | None = None,
) -> TrajectoryTree:
    """One tree of all rollouts of a task, in the order of their numbers, one leaf for each context window.

    Where they are of several seats, prompts differ: each branches where it first says something else.
    A later window hangs from the prompt, and the one before it *continues* in it. Rollouts from `group_size`
    on are forks that the branching policy asked for. A rollout that never began is a broken leaf on the
    prompt. `task_id`: the task that was asked for; None: the one that was drawn.
    """
    builder = TreeBuilder()
    seated = any(rollout.seat for rollout in rollouts)
    prompts = {r.prompt.tobytes(): r.prompt for r in rollouts if r.prompt is not None}
    prompt_nodes = _add_prompts(builder, [*prompts.values()], "rollout" if seated else "token_mismatch")
    before_reply: dict[tuple[int, int], int] = {}
    for rollout in rollouts:
        begun = rollout if rollout.origin is None else rollouts[rollout.origin.rollout]
        root = 0 if begun.prompt is None else prompt_nodes[begun.prompt.tobytes()]
        if rollout.origin is None:
            node, first_turn = root, 0
        else:
            node = before_reply[rollout.origin.rollout, rollout.origin.turn]
            first_turn = rollout.origin.turn
        cause = "rollout" if rollout.index < group_size else "branch"
        for number, turn in enumerate(rollout.turns):
            if turn.opens_window:
                builder.add_leaf(node, terminated=False, cause=rollout.cause, group=rollout.seat)
                window = builder.add_context(root, turn.context, fork_cause="compaction")
                builder.add_edge(node, window, kind="continues")
                node = window
            elif number:  # the first context is the prompt, or belongs to the origin
                node = builder.add_context(node, turn.context, fork_cause=cause)
            before_reply[rollout.index, first_turn + number] = node
            node = builder.add_sampled(node, turn.completion, fork_cause=cause)
            if number < len(rollout.rewards):
                builder.add_reward(node, rollout.rewards[number])
        builder.add_leaf(node, terminated=rollout.terminated, cause=rollout.cause, group=rollout.seat)
    if task_id is None:
        task_id = next((r.task_id for r in rollouts if r.task_id), "")
    return builder.build(env_id=env_id, task_id=task_id, level=level or 0, info=info)


def _add_prompts(builder: TreeBuilder, prompts: list[Int32], fork_cause: str) -> dict[bytes, int]:
    """The node of each distinct prompt. Usually there is one; others leave it at the first difference."""
    if not prompts:
        builder.add_context(-1, NO_PROMPT, fork_cause="")
    nodes: dict[bytes, int] = {}
    pending = [(-1, 0, prompts)] if prompts else []
    while pending:
        parent, begun, some = pending.pop()
        shared = common_prefix(*some)
        node = builder.add_context(parent, some[0][begun:shared], fork_cause=fork_cause)
        following: dict[int, list[Int32]] = {}
        for prompt in some:
            if len(prompt) == shared:
                nodes[prompt.tobytes()] = node
            else:
                following.setdefault(int(prompt[shared]), []).append(prompt)
        pending += [(node, shared, later) for later in reversed(following.values())]
    return nodes
