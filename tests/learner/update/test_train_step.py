"""Gradients, metrics and errors of one training step."""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from tests.learner.tiny_models import VOCAB_SIZE, tiny_hf_model, tiny_pair
from tests.trees import random_tree
from trieline.learner.batch.batch import prepare_batch
from trieline.learner.config import LearnerConfig
from trieline.learner.errors import ObjectiveError
from trieline.learner.model.tree_forward import TreeModel
from trieline.learner.objective.pack_loss import PackOutputs, pack_loss
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.update.learner import Learner
from trieline.learner.update.train_step import accumulate_gradients, forward_pack, recompute_logprobs
from trieline.wire.tree import SCORED, TrajectoryTree

MODEL, PLAIN = tiny_pair()
ALL = 10_000


def trees(seed: int = 0, count: int = 3) -> list[TrajectoryTree]:
    rng = np.random.default_rng(seed)
    return [random_tree(rng, vocab_size=VOCAB_SIZE, max_nodes=8, max_node_tokens=5) for _ in range(count)]


def agreeing(some: list[TrajectoryTree], version: int) -> list[TrajectoryTree]:
    """As if the model itself had sampled these trees at that version."""
    recomputed = recompute_logprobs(MODEL, some)
    return [
        replace(
            tree,
            behavior_logprobs=logprobs,
            policy_versions=np.where(tree.policy_versions >= 0, version, -1).astype(np.int32),
        )
        for tree, logprobs in zip(some, recomputed, strict=True)
    ]


def test_recomputed_logprobs_are_those_of_the_plain_model() -> None:
    some = trees()
    for tree, got in zip(some, recompute_logprobs(MODEL, some, temperature=0.8, max_tokens=20), strict=True):
        assert got.dtype == np.float32
        expected = np.zeros(tree.num_tokens)
        by_policy = np.repeat(tree.sampled, np.diff(tree.node_offsets))
        for leaf in range(tree.num_leaves):
            index = tree.sequence_index(leaf)
            ids = torch.from_numpy(tree.token_ids[index].astype(np.int64))
            table = torch.log_softmax(PLAIN(ids[None]).logits[0] / 0.8, dim=-1)
            expected[index[1:]] = table[range(len(ids) - 1), ids[1:]].detach().numpy()
        np.testing.assert_allclose(got, np.where(by_policy, expected, 0), rtol=1e-6, atol=1e-6)


def test_the_gradient_of_a_shared_token_is_that_of_the_branches_through_it() -> None:
    """Tree Training's form: for a weighted likelihood, one weight a token, the number of its branches."""
    config = ObjectiveConfig(loss="sft")
    some = trees(seed=3)
    (pack,) = prepare_batch(some, config, max_tokens=ALL).packs
    outputs = forward_pack(MODEL, pack, config)
    loss = pack_loss(pack, outputs, config).loss
    (gradient,) = torch.autograd.grad(loss, outputs.logprobs, retain_graph=True)
    branches = torch.from_numpy(np.bincount(pack.column_targets)).double()
    assert branches.max() > 1
    torch.testing.assert_close(gradient, -branches / branches.sum(), rtol=1e-14, atol=0.0)
    # And with it the whole gradient is one weighted likelihood over the trie.
    weighted = -(branches / branches.sum() * outputs.logprobs).sum()
    parameters = list(MODEL.hf_model.parameters())
    both = [torch.autograd.grad(form, parameters, retain_graph=True) for form in (loss, weighted)]
    for gathered, by_weight in zip(*both, strict=True):
        torch.testing.assert_close(gathered, by_weight, rtol=1e-10, atol=1e-14)


def test_where_the_weights_sampled_the_tokens_nothing_mismatches() -> None:
    config = ObjectiveConfig(skip_zero_std=False)
    batch = prepare_batch(agreeing(trees(), version=7), config, max_tokens=ALL)
    metrics = accumulate_gradients(MODEL, batch, config, policy_version=7)
    assert metrics["mismatch_kl/fresh_fraction"] == 1
    # Recorded in float32.
    assert 0 <= metrics["mismatch_kl/mean"] <= metrics["mismatch_kl/max"] < 1e-12
    assert metrics["mismatch_kl/logprob_max_abs"] < 1e-6
    assert metrics["clip_ratio/low"] == metrics["clip_ratio/high"] == 0


def test_only_tokens_with_a_fresh_past_are_compared() -> None:
    config = ObjectiveConfig(skip_zero_std=False)
    tree = agreeing(trees(seed=1, count=1), version=7)[0]
    sampled = np.flatnonzero(tree.policy_versions >= 0)
    # One old token: it and all that follow it were sampled on keys and values of old weights.
    old = replace(
        tree, policy_versions=tree.policy_versions.copy(), behavior_logprobs=tree.behavior_logprobs.copy()
    )
    old.policy_versions[sampled[0]] = 6
    old.behavior_logprobs[sampled[0]] -= 5
    batch = prepare_batch([old], config, max_tokens=ALL)
    metrics = accumulate_gradients(MODEL, batch, config, policy_version=7)
    assert metrics["mismatch_kl/fresh_fraction"] < 1
    assert metrics.get("mismatch_kl/max", 0.0) < 1e-12
    assert metrics["off_policy/kl/logprob_max_abs"] == pytest.approx(5, abs=1e-5), "but told"
    metrics = accumulate_gradients(MODEL, batch, config, policy_version=8)
    assert metrics["mismatch_kl/fresh_fraction"] == 0
    assert "mismatch_kl/mean" not in metrics


def test_metric_names() -> None:
    config = ObjectiveConfig(
        advantage="vtrace", loss="vtrace_pg", entropy_scaling="sequence", entropy_coef=0.1, kl_coef=0.1
    )
    batch = prepare_batch(trees(), config, max_tokens=ALL)
    reference = TreeModel(tiny_hf_model(seed=4))
    metrics = accumulate_gradients(MODEL, batch, config, policy_version=0, reference=reference)
    expected = {
        *("loss/total", "loss/policy", "loss/value", "loss/entropy", "loss/kl"),
        *("entropy/mean", "kl/mean", "vtrace/rho_clipped_fraction", "frac_reward_zero_std"),
        *("tree/token_ratio", "tree/branches", "tree/depth", "tree/forks"),
        *("entropy_scale/mean", "entropy_scale/min", "entropy_scale/max", "mismatch_kl/fresh_fraction"),
    }
    assert expected <= set(metrics)
    assert all(isinstance(v, float) and np.isfinite(v) for v in metrics.values())
    assert metrics["loss/total"] == pytest.approx(
        sum(metrics[f"loss/{term}"] for term in ("policy", "value", "entropy", "kl"))
    )


def test_metrics_do_not_depend_on_packing() -> None:
    config = ObjectiveConfig(advantage="vtrace", loss="vtrace_pg", norm="rollout")
    some = trees(seed=5, count=5)
    one, many = (
        accumulate_gradients(MODEL, prepare_batch(some, config, max_tokens=m), config, policy_version=1)
        for m in (ALL, 1)
    )
    assert many["batch/packs"] == 5 > one["batch/packs"]
    assert many["batch/depth_first_tries"] == 5
    of_packing = {"batch/packs", "batch/depth_first_tries", "batch/trie_tokens", "batch/visible_pairs"}
    of_packing |= {"batch/waste", "tree/token_ratio", "tree/saving"}
    for name in set(one) - of_packing:
        assert many[name] == pytest.approx(one[name], rel=1e-9, abs=1e-12), name


def test_equal_returns_are_skipped_and_counted() -> None:
    some = [replace(tree, rewards=np.zeros_like(tree.rewards)) for tree in trees()]
    config = ObjectiveConfig()
    batch = prepare_batch(some, config, max_tokens=ALL)
    assert batch.packs == ()
    MODEL.zero_grad(set_to_none=True)
    metrics = accumulate_gradients(MODEL, batch, config, policy_version=0)
    assert metrics["frac_reward_zero_std"] == 1
    assert all(p.grad is None for p in MODEL.parameters())
    assert len(prepare_batch(some, ObjectiveConfig(skip_zero_std=False), max_tokens=ALL).packs) == 1
    assert len(prepare_batch(some, ObjectiveConfig(loss="sft"), max_tokens=ALL).packs) == 1


def test_broken_leaves_count_for_nothing() -> None:
    """Neither in the baseline nor in the tokens: as if they had never been sampled."""
    rng = np.random.default_rng(2)
    tree = random_tree(rng, vocab_size=VOCAB_SIZE, max_nodes=9, broken_leaves=0.0)
    broken = replace(tree, leaf_causes=("sandbox", *[SCORED] * (tree.num_leaves - 1)))
    gone = replace(
        tree,
        leaf_nodes=tree.leaf_nodes[1:],
        leaf_terminated=tree.leaf_terminated[1:],
        leaf_causes=tree.leaf_causes[1:],
    )
    config = ObjectiveConfig(skip_zero_std=False)
    losses = [
        accumulate_gradients(MODEL, prepare_batch([t], config, max_tokens=ALL), config, policy_version=0)[
            "loss/total"
        ]
        for t in (broken, gone, tree)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_no_trees_and_only_broken_ones_give_no_packs() -> None:
    rng = np.random.default_rng(2)
    broken = random_tree(rng, vocab_size=VOCAB_SIZE, broken_leaves=1.0)
    for some in ([], [broken]):
        batch = prepare_batch(some, ObjectiveConfig(), max_tokens=ALL)
        assert batch.packs == ()
        assert batch.num_columns == 0


def test_missing_parts_are_named() -> None:
    vtrace = ObjectiveConfig(advantage="vtrace", loss="vtrace_pg")
    without_head = TreeModel(tiny_hf_model())
    with pytest.raises(ObjectiveError, match="needs a model with a value head"):
        accumulate_gradients(without_head, prepare_batch([], vtrace, max_tokens=1), vtrace, policy_version=0)
    kl = ObjectiveConfig(kl_coef=0.1)
    with pytest.raises(ObjectiveError, match=r"kl_coef = 0\.1 and none"):
        accumulate_gradients(MODEL, prepare_batch([], kl, max_tokens=1), kl, policy_version=0)
    plain = ObjectiveConfig()
    with pytest.raises(ObjectiveError, match=r"kl_coef = 0\.0 and LlamaForCausalLM"):
        accumulate_gradients(
            MODEL, prepare_batch([], plain, max_tokens=1), plain, policy_version=0, reference=MODEL
        )


@pytest.mark.parametrize("loss", ["ppo_clip", "tis", "icepop", "pg", "vtrace_pg"])
def test_clips_bite_on_both_sides(loss: str) -> None:
    """Gradients by the ratio pi/mu, at which each loss lets go."""
    config = ObjectiveConfig(loss=loss, skip_zero_std=False)  # type: ignore[arg-type]
    (pack,) = prepare_batch(trees(), config, max_tokens=ALL).packs
    ratios = np.resize([0.3, 0.9, 1.2, 1.5, 6.0], len(pack.weights))
    one_column = dataclasses.replace(
        pack,
        column_targets=np.arange(len(pack.weights)),
        target_rows=np.zeros(len(pack.weights), np.int64),
        behavior_logprobs=-np.log(ratios) - 1,
        advantages=np.ones(len(pack.weights)),
        weights=np.ones(len(pack.weights)),
    )
    logprobs = torch.full((len(pack.weights),), -1.0, dtype=torch.float64, requires_grad=True)
    outputs = PackOutputs(
        logprobs=logprobs,
        entropies=torch.zeros(len(pack.rows), dtype=torch.float64),
        values=None,
        reference_logprobs=None,
    )
    (gradient,) = torch.autograd.grad(pack_loss(one_column, outputs, config).loss, logprobs)
    expected = {
        "ppo_clip": [0.3, 0.9, 1.2, 0, 0],
        "tis": [0.3, 0.9, 1.2, 1.5, 2.0],
        "icepop": [0, 0.9, 1.2, 1.5, 0],
        "pg": [1, 1, 1, 1, 1],
        "vtrace_pg": [0.3, 0.9, 1, 1, 1],
    }[loss]
    torch.testing.assert_close(-gradient[:5], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(("advantage", "expected"), [("tree", [2 / 3, -1 / 3]), ("group", [1.0, -0.5])])
def test_a_rollout_that_ended_before_anything_was_sampled_counts_in_the_baseline(
    advantage: Literal["tree", "group"], expected: list[float]
) -> None:
    tree = TrajectoryTree(
        env_id="e",
        task_id="t",
        parents=np.array([-1, 0, 0], np.int32),
        node_offsets=np.array([0, 2, 3, 4], np.int32),
        sampled=np.array([False, True, True]),
        rewards=np.array([0, 1, 0], np.float32),
        fork_causes=("", "rollout", "rollout"),
        token_ids=np.array([5, 6, 1, 2], np.int32),
        behavior_logprobs=np.array([0, 0, -1, -1], np.float32),
        entropies=np.array([0, 0, 1, 1], np.float32),
        policy_versions=np.array([-1, -1, 0, 0], np.int32),
        leaf_nodes=np.array([0, 1, 2], np.int32),
        leaf_terminated=np.ones(3, np.bool_),
        leaf_causes=(SCORED,) * 3,
    )
    tree.validate()
    config = ObjectiveConfig(advantage=advantage, scale_rewards="none")
    (pack,) = prepare_batch([tree], config, max_tokens=ALL).packs
    assert pack.advantages.tolist() == pytest.approx(expected)


def test_supervised_steps_of_a_run_with_a_kl_term_use_no_reference_model(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny_hf_model().save_pretrained(folder)
    config = LearnerConfig(threads=1, objective=ObjectiveConfig(kl_coef=0.1))
    learner = Learner(config, folder, dtype=torch.float32)
    report = learner.step(trees(), objective=ObjectiveConfig(loss="sft"), lr=1e-3)
    assert report.applied
    assert "loss/kl" not in report.metrics
