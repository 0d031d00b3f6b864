"""Depth-first execution: what one pass gives, in the memory of a path."""

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tests.learner.tiny_models import VOCAB_SIZE, tiny_hf_model, tiny_pair
from tests.trees import long_tree, random_tree
from trieline.learner.batch.batch import prepare_batch
from trieline.learner.model.tree_forward import TreeModel
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.update.train_step import accumulate_gradients, recompute_logprobs

VTRACE = ObjectiveConfig(
    advantage="vtrace", loss="vtrace_pg", gamma=0.97, lam=0.9, entropy_coef=0.01, kl_coef=0.05
)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("max_tokens", [1, 25, 70, 150])
def test_gradients_and_metrics_are_those_of_one_pass(architecture: str, max_tokens: int) -> None:
    """With value head, entropy and reference model: whatever a segment has to hand on."""
    rng = np.random.default_rng(max_tokens)
    trees = [
        random_tree(rng, vocab_size=VOCAB_SIZE, max_nodes=12, max_node_tokens=25, task_id=str(i))
        for i in range(2)
    ]
    model, _ = tiny_pair(architecture)
    reference = TreeModel(tiny_hf_model(architecture, seed=1))
    results = []
    for budget in (10_000, max_tokens):
        model.zero_grad(set_to_none=True)
        batch = prepare_batch(trees, VTRACE, max_tokens=budget)
        metrics = accumulate_gradients(model, batch, VTRACE, policy_version=1, reference=reference)
        results.append(
            (metrics, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        )
    (wanted_metrics, wanted), (metrics, got) = results
    assert set(got) == set(wanted)
    for name, gradient in wanted.items():
        assert (got[name] - gradient).norm() < 1e-10 * gradient.norm().clamp_min(1e-12), name
    for name in wanted_metrics:
        if not name.startswith(("batch/", "tree/")):
            assert metrics[name] == pytest.approx(wanted_metrics[name], rel=1e-9, abs=1e-12), name


def test_bfloat16_is_as_close_to_float64_as_one_pass_is() -> None:
    tree = long_tree(np.random.default_rng(0), num_tokens=400, vocab_size=VOCAB_SIZE)
    config = ObjectiveConfig(loss="sft")
    gradients = []
    for dtype, budget in ((torch.float64, 10_000), (torch.bfloat16, 10_000), (torch.bfloat16, 100)):
        model, _ = tiny_pair("llama", dtype=dtype)
        accumulate_gradients(
            model, prepare_batch([tree], config, max_tokens=budget), config, policy_version=0
        )
        gradients.append(
            torch.cat([p.grad.double().ravel() for p in model.parameters() if p.grad is not None])
        )
    exact, one_pass, depth_first = gradients
    assert (depth_first - exact).norm() < 1.3 * (one_pass - exact).norm()


def test_log_probabilities_are_recomputed_within_the_budget() -> None:
    rng = np.random.default_rng(3)
    trees = [random_tree(rng, vocab_size=VOCAB_SIZE, max_nodes=9, max_node_tokens=12) for _ in range(3)]
    model, _ = tiny_pair("qwen3")
    whole, parts = (recompute_logprobs(model, trees, max_tokens=budget) for budget in (10_000, 12))
    for a, b in zip(whole, parts, strict=True):
        # Results are float32.
        assert np.allclose(a, b, rtol=0, atol=1e-6)


def peak_bytes(num_tokens: int, leaves: int, budget: int) -> int:
    """Most memory that tensors of one gradient step take at a time, beyond what was there before."""
    model, _ = tiny_pair("llama", dtype=torch.float32)
    rng = np.random.default_rng(0)
    tree = long_tree(rng, num_tokens=num_tokens, num_leaves=leaves, vocab_size=VOCAB_SIZE)
    config = ObjectiveConfig(loss="sft")
    batch = prepare_batch([tree], config, max_tokens=budget)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        accumulate_gradients(model, batch, config, policy_version=0)
    now = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def test_memory_follows_the_path_and_not_the_tree() -> None:
    """4,096 tokens, of which the longest path has 1,152, against a row of that and a segment."""
    budget = 1536
    depth_first = peak_bytes(4096, 24, budget)
    assert depth_first < 1.5 * peak_bytes(budget, 1, budget)
    assert depth_first < 0.6 * peak_bytes(4096, 24, 4096)
