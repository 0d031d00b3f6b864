"""Which trees a run takes: those that fit what was asked for, and hold numbers that a policy can have made.

Any program on this machine can send a tree, and one absurd number in one of them voids the step of all.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from trieline.common.numbers import MAX_REWARD
from trieline.wire.errors import TreeError
from trieline.wire.messages import Assignment
from trieline.wire.tree import MAX_LEAVES, NumberBounds, TrajectoryTree

# Nats. A token of this probability comes up once in 10^43 draws, so none that was sampled ever has it.
LEAST_LOGPROB = -100.0
# Nats. No distribution over V tokens has more than ln V; the rest is rounding in bfloat16, and where V is
# unknown it is that of the largest token id there can be.
ENTROPY_ROUNDING = 0.1
LARGEST_VOCABULARY = 2**31
# Of leaves that are compared with each other: seats of a game, roles, agents.
MOST_GROUPS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvExpectation:
    """What trees of one environment look like."""

    max_context: int
    """Tokens of one sequence."""
    max_windows: int = 1
    """Sequences of one episode."""
    levels: frozenset[int] = frozenset((0,))
    """Those that tasks are drawn from; 0 where the environment has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expectation:
    """What every tree of a run keeps to, whatever was asked for. What is None is not looked at."""

    envs: Mapping[str, EnvExpectation] | None = None
    """By environment id; trees of others are refused."""
    vocab_size: int | None = None
    max_positions: int | None = None
    """Tokens of one sequence that the model has positions for."""
    max_forks: int | None = None
    """Episodes of one tree beside those of the group that was asked for."""
    max_tree_tokens: int = 1_000_000


def expect_admissible(
    tree: TrajectoryTree,
    assignment: Assignment | None,
    expectation: Expectation,
    *,
    newest_version: int | None = None,
) -> None:
    """Raise TreeError for a tree that this run has not asked for, with what was expected and what came.

    Args:
        tree: of unknown origin.
        assignment: what its actor was asked for; None: of before a restart, when nobody remembers.
        expectation: of the run.
        newest_version: the highest version of the policy that can have sampled; None: unknown.
    """
    tree.validate(
        vocab_size=expectation.vocab_size,
        max_tokens=expectation.max_tree_tokens,
        bounds=_number_bounds(expectation.vocab_size),
    )
    if tree.sampled[0]:
        msg = "expected a root of context (a prompt), got one that the policy sampled"
        raise TreeError(msg)
    _expect_asked_for(tree, assignment, expectation)
    _expect_short(tree, expectation)
    newest = int(tree.policy_versions.max())
    if newest_version is not None and newest > newest_version:
        msg = f"expected tokens of policy versions up to {newest_version}, the newest, got version {newest}"
        raise TreeError(msg)


@lru_cache(maxsize=16)
def _number_bounds(vocab_size: int | None) -> NumberBounds:
    most_entropy = math.log(vocab_size or LARGEST_VOCABULARY) + ENTROPY_ROUNDING
    return NumberBounds(least_logprob=LEAST_LOGPROB, most_entropy=most_entropy, most_reward=MAX_REWARD)


def _expect_asked_for(tree: TrajectoryTree, assignment: Assignment | None, expectation: Expectation) -> None:
    env = None
    if expectation.envs is not None:
        env = expectation.envs.get(tree.env_id)
        if env is None:
            msg = f"expected a tree of one of {sorted(expectation.envs)}, got one of {tree.env_id!r}"
            raise TreeError(msg)
    if assignment is None:
        if env is not None and tree.level not in env.levels:
            msg = f"expected a level of {tree.env_id} out of {sorted(env.levels)}, got {tree.level}"
            raise TreeError(msg)
        return
    if tree.env_id != assignment.env_id:
        msg = f"expected a tree of {assignment.env_id!r} as assigned, got one of {tree.env_id!r}"
        raise TreeError(msg)
    if tree.level != (assignment.level or 0):
        msg = f"expected level {assignment.level or 0} as assigned, got {tree.level}"
        raise TreeError(msg)
    least = assignment.group_size
    most = MAX_LEAVES if expectation.max_forks is None else least + expectation.max_forks
    windows = MAX_LEAVES if env is None else env.max_windows
    # The leaves are counted first: how they belong together takes longer to find out. Each seat of a game has
    # a group of its own, with fewer episodes where its turn did not come in every game.
    groups = np.unique(tree.comparison_groups)
    if len(groups) > MOST_GROUPS:
        msg = f"expected at most {MOST_GROUPS} groups of leaves, got {len(groups)}"
        raise TreeError(msg)
    episodes = tree.episodes() if tree.num_leaves <= most * windows * len(groups) else []
    ends = tree.comparison_groups[[leaves[-1] for leaves in episodes]]
    count = int(np.unique(ends, return_counts=True)[1].max()) if episodes else tree.num_leaves
    if not least <= count <= most:
        expected = f"{least} leaves" if least == most else f"{least} to {most} leaves"
        msg = f"expected {expected}, the group assigned and its forks, got {count}"
        raise TreeError(msg)
    if (longest := max(map(len, episodes))) > windows:
        msg = f"expected episodes of at most {windows} context windows, got one of {longest}"
        raise TreeError(msg)


def _expect_short(tree: TrajectoryTree, expectation: Expectation) -> None:
    longest = max(tree.sequence_lengths)
    if expectation.max_positions is not None and longest > expectation.max_positions:
        msg = f"expected sequences of at most {expectation.max_positions} tokens, the model's positions, "
        raise TreeError(msg + f"got {longest}")
    env = expectation.envs.get(tree.env_id) if expectation.envs is not None else None
    if env is not None and longest > env.max_context:
        msg = f"expected sequences of at most {env.max_context} tokens, max_context of {tree.env_id}, "
        raise TreeError(msg + f"got {longest}")
