import numpy as np
import pytest
from msgspec.structs import replace

from trieline.learner.intake.tree_metrics import (
    batch_metrics,
    failure_metrics,
    level_metrics,
    num_sampled_tokens,
    text_sample,
)
from trieline.wire.tree import TrajectoryTree


def tree(env_id: str, rewards: list[float], causes: list[str], *, version: int = 2) -> TrajectoryTree:
    """A prompt of two tokens, then rollouts of 1, 2, ... tokens; the last one is cut off."""
    count = len(rewards)
    lengths = [2, *range(1, count + 1)]
    tokens = sum(lengths)
    sampled = np.arange(tokens) >= 2
    return TrajectoryTree(
        env_id=env_id,
        task_id="t",
        parents=np.array([-1] + [0] * count, np.int32),
        node_offsets=np.cumsum([0, *lengths]).astype(np.int32),
        sampled=np.array([False] + [True] * count),
        rewards=np.array([0.0, *rewards], np.float32),
        fork_causes=("",) * (count + 1),
        token_ids=np.zeros(tokens, np.int32),
        behavior_logprobs=np.zeros(tokens, np.float32),
        entropies=np.zeros(tokens, np.float32),
        policy_versions=np.where(sampled, version, -1).astype(np.int32),
        leaf_nodes=np.arange(1, count + 1, dtype=np.int32),
        leaf_terminated=np.arange(count) < count - 1,
        leaf_causes=tuple(causes),
        info={"prompt": "p" * 900, "reply": f"reply of {env_id}"},
    )


MATH = tree("math", [1.0, 0.0, 1.0], ["", "", ""])
CODE = tree("code", [1.0, 0.0], ["", "sandbox"], version=4)
LOST = tree("code", [0.0, 0.0], ["timeout", "sandbox"])


def test_broken_rollouts_count_in_nothing_but_the_failures() -> None:
    metrics = batch_metrics([MATH, CODE], policy_version=5)
    assert metrics["reward/math/mean"] == pytest.approx(2 / 3)
    assert metrics["reward/code/mean"] == 1.0
    assert metrics["reward/mean"] == 0.75
    assert metrics["off_policy/staleness/mean"] == 2.0
    assert metrics["off_policy/staleness/max"] == 3.0
    assert metrics["completions/mean_length"] == pytest.approx((1 + 2 + 3 + 1) / 4)
    assert metrics["completions/clipped_ratio"] == 0.25
    assert failure_metrics([MATH, CODE, LOST]) == {
        "errored_rollouts/code/sandbox": 2.0,
        "errored_rollouts/code/timeout": 1.0,
    }
    assert num_sampled_tokens([MATH, CODE, LOST]) == 6 + 3 + 3


def test_each_token_counts_with_its_own_version() -> None:
    # Rollouts of 1, 2 and 3 tokens after a prompt of 2: the second is of two versions.
    mixed = replace(MATH, policy_versions=np.array([-1, -1, 4, 3, 5, 4, 4, 4], np.int32))
    metrics = batch_metrics([mixed], policy_version=5)
    assert metrics["off_policy/token_staleness/mean"] == pytest.approx((1 + 2 + 0 + 1 + 1 + 1) / 6)
    assert metrics["off_policy/mixed_replies"] == pytest.approx(1 / 3)
    assert metrics["off_policy/mixed_sequences"] == pytest.approx(1 / 3)
    assert batch_metrics([MATH], policy_version=1)["off_policy/token_staleness/mean"] == 0.0


def test_a_sequence_of_whole_replies_by_several_versions_is_mixed() -> None:
    # The prompt, a reply to it, then two second turns: one by the weights of the first, one by newer ones.
    turns = replace(
        MATH,
        parents=np.array([-1, 0, 1, 1], np.int32),
        policy_versions=np.array([-1, -1, 4, 4, 4, 5, 5, 5], np.int32),
        leaf_nodes=np.array([2, 3], np.int32),
        leaf_terminated=np.array([True, True]),
        leaf_causes=("", ""),
    )
    metrics = batch_metrics([turns], policy_version=5)
    assert metrics["off_policy/mixed_replies"] == 0.0
    assert metrics["off_policy/mixed_sequences"] == 0.5


def test_success_episodes_and_tokens_are_counted_by_level() -> None:
    metrics = level_metrics([MATH, replace(MATH, level=2), CODE, LOST])
    assert metrics == {
        "levels/math/0/success": pytest.approx(2 / 3),
        "levels/math/0/episodes": 3.0,
        "levels/math/0/tokens": 1.0 + 2 + 3,
        "levels/math/2/success": pytest.approx(2 / 3),
        "levels/math/2/episodes": 3.0,
        "levels/math/2/tokens": 6.0,
        "levels/code/0/success": 1.0,
        "levels/code/0/episodes": 1.0,
        "levels/code/0/tokens": 1.0,
    }


def test_no_trees_give_no_figures() -> None:
    assert batch_metrics([], policy_version=0) == {}
    assert "reward/mean" not in batch_metrics([LOST], policy_version=2)


def test_samples_are_short_and_change() -> None:
    samples = [text_sample([MATH, CODE], step) for step in range(2)]
    assert [s["env"] for s in samples if s] == ["math", "code"]
    assert samples[0] == {"env": "math", "prompt": "p" * 500, "reply": "reply of math", "reward": 1.0}
    assert text_sample([], 0) is None
