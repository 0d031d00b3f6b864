"""Every kind of tree that does not fit, and that no honest one is ever refused."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.trees import long_tree, random_tree
from trieline.common.numbers import MAX_REWARD
from trieline.wire.errors import TreeError
from trieline.wire.messages import Assignment
from trieline.wire.tree import CAUSES, MAX_NODES, UNKNOWN_ENTROPY, TrajectoryTree
from trieline.wire.tree_admission import (
    LEAST_LOGPROB,
    EnvExpectation,
    Expectation,
    expect_admissible,
)

VOCAB_SIZE = 40
ENV, OTHER_ENV = "test/Long-v0", "test/Other-v0"
EXPECTATION = Expectation(
    envs={
        ENV: EnvExpectation(max_context=60, max_windows=2, levels=frozenset((1, 2))),
        OTHER_ENV: EnvExpectation(max_context=1_000),
    },
    vocab_size=VOCAB_SIZE,
    max_positions=100,
    max_forks=2,
    max_tree_tokens=1_000,
)
ASSIGNMENT = Assignment(assignment_id=0, env_id=ENV, seed=0, level=2, group_size=4)
NEWEST_VERSION = 7


def tree(**changes: Any) -> TrajectoryTree:
    """40 tokens of prompt, and 4 rollouts of 20: sequences of 60."""
    made = long_tree(np.random.default_rng(0), num_tokens=120, num_leaves=4, vocab_size=VOCAB_SIZE)
    runs = np.array([0, 40, 60, 80, 100, 120], np.int32)
    by_policy = np.arange(120) >= 40
    columns: dict[str, Any] = {
        "level": 2,
        "node_offsets": runs,
        "behavior_logprobs": np.where(by_policy, -1, 0).astype(np.float32),
        "entropies": np.where(by_policy, 1, 0).astype(np.float32),
        "policy_versions": np.where(by_policy, NEWEST_VERSION, -1).astype(np.int32),
    }
    return replace(made, **{**columns, **changes})


def with_leaves(count: int) -> TrajectoryTree:
    return tree(
        leaf_nodes=np.resize(np.arange(1, 5, dtype=np.int32), count),
        leaf_terminated=np.ones(count, np.bool_),
        leaf_causes=("",) * count,
    )


def with_number(column: str, value: float, *, at: int = -1) -> TrajectoryTree:
    values = getattr(tree(), column).copy()
    values[at] = value
    return tree(**{column: values})


def with_path_of(first: int, second: int) -> TrajectoryTree:
    """A prompt of `first` and one reply of `second` tokens, four times told."""
    made = long_tree(np.random.default_rng(0), num_tokens=first + second, num_leaves=1, vocab_size=VOCAB_SIZE)
    by_policy = np.arange(first + second) >= first
    return replace(
        made,
        level=2,
        node_offsets=np.array([0, first, first + second], np.int32),
        policy_versions=np.where(by_policy, 0, -1).astype(np.int32),
        leaf_nodes=np.ones(4, np.int32),
        leaf_terminated=np.ones(4, np.bool_),
        leaf_causes=("",) * 4,
    )


def with_sampled_root() -> TrajectoryTree:
    sampled = tree().sampled.copy()
    sampled[0] = True
    return tree(sampled=sampled, policy_versions=np.full(120, NEWEST_VERSION, np.int32))


def admit(came: TrajectoryTree, assignment: Assignment | None = ASSIGNMENT) -> None:
    expect_admissible(came, assignment, EXPECTATION, newest_version=NEWEST_VERSION)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: tree(env_id=OTHER_ENV), "a tree of 'test/Long-v0' as assigned, got one of 'test/Other-v0'"),
        (lambda: tree(env_id="evil/Env-v0"), r"one of \['test/Long-v0', .*\], got one of 'evil/Env-v0'"),
        (lambda: tree(level=1), "expected level 2 as assigned, got 1"),
        (lambda: tree(level=99), "expected level 2 as assigned, got 99"),
        (lambda: tree(level=-(2**63)), "expected level 2 as assigned, got -9223372036854775808"),
        (lambda: with_leaves(1), "expected 4 to 6 leaves, the group assigned and its forks, got 1"),
        (lambda: with_leaves(7), "got 7"),
        (lambda: with_leaves(400), "got 400"),
        (
            lambda: with_number("policy_versions", 8),
            "policy versions up to 7, the newest, got version 8",
        ),
        (lambda: with_number("policy_versions", 2**31 - 1), "got version 2147483647"),
        (with_sampled_root, "expected a root of context"),
        (lambda: with_path_of(40, 21), "at most 60 tokens, max_context of test/Long-v0, got 61"),
        (lambda: with_path_of(40, 61), "at most 100 tokens, the model's positions, got 101"),
        (
            lambda: with_number("behavior_logprobs", -200),
            r"logprobs in \[-100, 0.0001\], got -200.0\.\.",
        ),
        (lambda: with_number("behavior_logprobs", -3e38), r"in \[-100, 0.0001\], got -3.0.*e\+38\.\."),
        (lambda: with_number("rewards", 1e30), r"rewards in \[-1e\+06, 1e\+06\], got .*\.\.1.0.*e\+30"),
        (lambda: with_number("rewards", -1e30, at=0), r"rewards in \[-1e\+06, 1e\+06\], got -1.0.*e\+30\.\."),
        (
            lambda: with_number("entropies", 3e38),
            r"entropies in \[-0.0001, 3.78888\], got .*\.\.3.0.*e\+38",
        ),
        (lambda: with_number("token_ids", VOCAB_SIZE), r"token_ids in \[0, 40\), got"),
        (lambda: with_path_of(40, 961), "at most 1000 tokens, got 1001"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_was_expected(
    make: Callable[[], TrajectoryTree], complaint: str
) -> None:
    admit(tree())
    with pytest.raises(TreeError, match=complaint):
        admit(make())


def test_a_tree_of_before_a_restart_is_held_against_the_settings() -> None:
    admit(tree(level=1), None)
    admit(with_leaves(1), None)
    with pytest.raises(TreeError, match=r"level of test/Long-v0 out of \[1, 2\], got 99"):
        admit(tree(level=99), None)
    with pytest.raises(TreeError, match="got one of 'evil/Env-v0'"):
        admit(tree(env_id="evil/Env-v0"), None)
    with pytest.raises(TreeError, match="max_context"):
        admit(with_path_of(40, 21), None)


def test_at_the_bounds_it_is_taken() -> None:
    for count in (4, 5, 6):
        admit(with_leaves(count))
    admit(with_number("behavior_logprobs", LEAST_LOGPROB))
    admit(with_number("rewards", MAX_REWARD))
    admit(with_number("rewards", -MAX_REWARD))
    admit(with_number("entropies", np.log(VOCAB_SIZE)))
    admit(with_path_of(59, 1))


def test_an_absurd_entropy_hides_behind_no_unknown_one() -> None:
    entropies = tree().entropies.copy()
    entropies[-2:] = UNKNOWN_ENTROPY
    admit(tree(entropies=entropies))
    entropies[50] = 3e38
    with pytest.raises(TreeError, match="expected entropies in"):
        admit(tree(entropies=entropies))


def test_bombs() -> None:
    nodes = MAX_NODES + 1
    many = long_tree(np.random.default_rng(0), num_tokens=10 * nodes, num_leaves=nodes - 1)
    few = replace(
        many, leaf_nodes=many.leaf_nodes[:1], leaf_terminated=many.leaf_terminated[:1], leaf_causes=("",)
    )
    for came, complaint in (
        (few, f"at most {MAX_NODES} nodes, got {nodes}"),
        (many, f"at most {MAX_NODES} nodes"),
        (with_leaves(16_385), "at most 16384 leaves, got 16385"),
    ):
        with pytest.raises(TreeError, match=complaint):
            expect_admissible(came, None, Expectation(max_tree_tokens=10 * nodes))
    long = long_tree(np.random.default_rng(0), num_tokens=10_000, num_leaves=1)
    count = 3_201
    bomb = replace(
        long,
        leaf_nodes=np.ones(count, np.int32),
        leaf_terminated=np.ones(count, np.bool_),
        leaf_causes=("",) * count,
    )
    with pytest.raises(TreeError, match="at most 32000000 tokens together, got 32010000"):
        expect_admissible(bomb, None, Expectation())


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32 - 1), level=st.none() | st.integers(0, 3), spare=st.integers(0, 3))
def test_no_honest_tree_is_refused(seed: int, level: int | None, spare: int) -> None:
    """Truncated and broken sequences, forks, sequences that end on one node: whatever the contract allows."""
    rng = np.random.default_rng(seed)
    came = random_tree(
        rng,
        vocab_size=VOCAB_SIZE,
        broken_leaves=float(rng.choice([0, 0.3, 1])),
        level=level or 0,
        max_entropy=np.log(VOCAB_SIZE),
    )
    forks = min(spare, came.num_leaves - 1)
    expectation = Expectation(
        envs={
            came.env_id: EnvExpectation(
                max_context=max(came.sequence_lengths), levels=frozenset((level or 0,))
            )
        },
        vocab_size=VOCAB_SIZE,
        max_positions=max(came.sequence_lengths),
        max_forks=spare,
    )
    assignment = Assignment(
        assignment_id=0, env_id=came.env_id, seed=0, level=level, group_size=came.num_leaves - forks
    )
    newest = max(0, int(came.policy_versions.max()))
    expect_admissible(came, assignment, expectation, newest_version=newest)
    expect_admissible(came, None, expectation, newest_version=newest + 1)
    assert came.sequence_lengths == [len(came.sequence_index(leaf)) for leaf in range(came.num_leaves)]
    assert sum(came.sequence_lengths) == came.num_sequence_tokens


def test_a_task_that_no_rollout_could_begin_is_taken() -> None:
    came = TrajectoryTree(
        env_id=ENV,
        task_id="",
        level=2,
        parents=np.array([-1], np.int32),
        node_offsets=np.array([0, 1], np.int32),
        sampled=np.zeros(1, np.bool_),
        rewards=np.zeros(1, np.float32),
        fork_causes=("",),
        token_ids=np.zeros(1, np.int32),
        behavior_logprobs=np.zeros(1, np.float32),
        entropies=np.zeros(1, np.float32),
        policy_versions=np.full(1, -1, np.int32),
        leaf_nodes=np.zeros(4, np.int32),
        leaf_terminated=np.zeros(4, np.bool_),
        leaf_causes=CAUSES[:4],
    )
    expect_admissible(came, ASSIGNMENT, EXPECTATION, newest_version=0)


def test_a_demonstration_is_taken() -> None:
    """Written by an expert: certain of every token, of version 0."""
    zeros = np.zeros(120, np.float32)
    by_policy = np.arange(120) >= 40
    versions = np.where(by_policy, 0, -1).astype(np.int32)
    admit(tree(behavior_logprobs=zeros, entropies=zeros, policy_versions=versions))


def in_windows(*edges: tuple[int, int]) -> TrajectoryTree:
    """Leaves that other leaves continue."""
    sources, targets = np.array(edges, np.int32).T
    return tree(
        edge_sources=sources.copy(), edge_targets=targets.copy(), edge_kinds=("continues",) * len(edges)
    )


def test_windows_of_an_episode_count_as_one_and_are_bounded() -> None:
    two = Assignment(assignment_id=0, env_id=ENV, seed=0, level=2, group_size=2)
    expectation = replace_expectation(max_forks=0)
    expect_admissible(in_windows((1, 2), (3, 4)), two, expectation, newest_version=NEWEST_VERSION)
    with pytest.raises(TreeError, match="expected 2 leaves, the group assigned and its forks, got 4"):
        expect_admissible(tree(), two, expectation)
    with pytest.raises(TreeError, match="expected episodes of at most 2 context windows, got one of 3"):
        expect_admissible(in_windows((1, 2), (2, 3)), two, expectation)
    alone = Assignment(assignment_id=0, env_id=ENV, seed=0, level=2, group_size=1)
    with pytest.raises(TreeError, match="expected 1 leaves, the group assigned and its forks, got 4"):
        expect_admissible(in_windows((1, 2), (2, 3), (3, 4)), alone, expectation)


def replace_expectation(**changes: Any) -> Expectation:
    return dataclasses.replace(EXPECTATION, **changes)
