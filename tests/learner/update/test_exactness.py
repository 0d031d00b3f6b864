"""Loss and every gradient on packed tries equal those of separate sequences, in float64."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.learner.objective_reference import reference_loss
from tests.learner.tiny_models import ARCHITECTURES, VOCAB_SIZE, tiny_hf_model, tiny_pair
from tests.trees import NONE, random_tree
from trieline.learner.batch.batch import prepare_batch
from trieline.learner.model.tree_forward import TreeModel
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.update.train_step import accumulate_gradients
from trieline.wire.tree import TrajectoryTree

LOSS_TOLERANCE = 1e-12
GRADIENT_TOLERANCE = 1e-10

MODELS = {name: tiny_pair(name) for name in sorted(ARCHITECTURES)}
# V-trace limits that the ratios of random behaviour log-probabilities lie on both sides of.
VTRACE = {"gamma": 0.97, "lam": 0.9, "rho_bar": 1.3, "c_bar": 0.8, "value_coef": 0.7}
SCALING = {"entropy_scale_min": 0.7, "entropy_scale_max": 1.4}
OBJECTIVES = [
    ObjectiveConfig(
        advantage=advantage,  # type: ignore[arg-type]
        entropy_scaling=scaling,  # type: ignore[arg-type]
        loss=loss,  # type: ignore[arg-type]
        **(VTRACE if advantage == "vtrace" else {}),  # type: ignore[arg-type]
        **(SCALING if scaling != "off" else {}),  # type: ignore[arg-type]
    )
    for advantage, scaling, loss in itertools.product(
        ("group", "vtrace", "tree"),
        ("off", "sequence", "token"),
        ("vtrace_pg", "ppo_clip", "tis", "icepop", "pg"),
    )
] + [ObjectiveConfig(loss="sft")]


def random_trees(seed: int, count: int = 3) -> list[TrajectoryTree]:
    rng = np.random.default_rng(seed)
    return [
        random_tree(rng, vocab_size=VOCAB_SIZE, max_nodes=7, max_node_tokens=4, task_id=str(i))
        for i in range(count)
    ]


def masked_trees(seed: int) -> list[TrajectoryTree]:
    """Half of what was sampled came under a mask, equal tokens under different ones. One tree comes twice."""
    rng = np.random.default_rng(seed)
    trees = []
    for i in range(3):
        tree = random_tree(
            rng, vocab_size=VOCAB_SIZE, max_nodes=6, max_node_tokens=4, task_id=str(i), later_columns=True
        )
        entropies = np.nan_to_num(tree.entropies, nan=0.5)
        edges = {"edge_sources": NONE, "edge_targets": NONE, "edge_kinds": ()}
        trees.append(replace(tree, entropies=entropies, leaf_groups=NONE, **edges))
    return [*trees, replace(trees[0], task_id="again")]


def expect_exact(
    trees: list[TrajectoryTree],
    config: ObjectiveConfig,
    *,
    architecture: str = "llama",
    max_tokens: int = 10_000,
    with_reference: bool = False,
) -> None:
    config.validate()
    model, plain = MODELS[architecture]
    model.zero_grad(set_to_none=True)
    plain.zero_grad(set_to_none=True)
    head = model.value_head if config.needs_value_head else None
    reference = tiny_hf_model(architecture, seed=1) if with_reference else None
    expected = reference_loss(trees, config, plain, head, reference)
    wanted = {}
    if expected is not None:
        expected.backward()  # type: ignore[no-untyped-call]
        wanted = {name: p.grad for name, p in plain.named_parameters()}
        if head is not None:
            wanted |= {f"value_head.{name}": p.grad for name, p in head.named_parameters()}
        model.zero_grad(set_to_none=True)
    batch = prepare_batch(trees, config, max_tokens=max_tokens)
    frozen = TreeModel(reference) if reference is not None else None
    metrics = accumulate_gradients(model, batch, config, policy_version=0, reference=frozen)
    if expected is None:
        assert not batch.packs
        return
    assert metrics["loss/total"] == pytest.approx(
        float(expected.detach()), abs=LOSS_TOLERANCE, rel=LOSS_TOLERANCE
    )
    got = {name.removeprefix("hf_model."): p.grad for name, p in model.named_parameters()}
    for name, gradient in wanted.items():
        assert gradient is not None
        actual = got[name]
        assert actual is not None, name
        error = float((actual - gradient).norm() / gradient.norm().clamp_min(1e-12))
        assert error < GRADIENT_TOLERANCE, (
            f"{name}: {error:.2e} relative to a norm of {float(gradient.norm()):.2e}"
        )


@pytest.mark.parametrize("config", OBJECTIVES, ids=lambda c: f"{c.advantage}-{c.entropy_scaling}-{c.loss}")
def test_every_objective(config: ObjectiveConfig) -> None:
    expect_exact(random_trees(seed=OBJECTIVES.index(config)), config)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
@pytest.mark.parametrize("max_tokens", [12, 10_000])
def test_every_architecture(architecture: str, max_tokens: int) -> None:
    config = ObjectiveConfig(advantage="vtrace", loss="vtrace_pg", entropy_coef=0.02)
    expect_exact(random_trees(seed=2), config, architecture=architecture, max_tokens=max_tokens)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    config=st.sampled_from(OBJECTIVES),
    max_tokens=st.sampled_from([1, 8, 30, 10_000]),
    architecture=st.sampled_from(["llama", "qwen2", "qwen3"]),
)
def test_random_trees_however_packed(
    seed: int, config: ObjectiveConfig, max_tokens: int, architecture: str
) -> None:
    expect_exact(random_trees(seed), config, max_tokens=max_tokens, architecture=architecture)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    config=st.sampled_from(OBJECTIVES),
    max_tokens=st.sampled_from([1, 8, 30, 10_000]),
    architecture=st.sampled_from(["llama", "gemma2"]),
)
def test_tokens_sampled_under_masks(
    seed: int, config: ObjectiveConfig, max_tokens: int, architecture: str
) -> None:
    expect_exact(masked_trees(seed), config, max_tokens=max_tokens, architecture=architecture)


def test_entropy_and_reference_of_masked_tokens() -> None:
    config = ObjectiveConfig(
        advantage="vtrace",
        loss="vtrace_pg",
        entropy_coef=0.02,
        kl_coef=0.1,
        temperature=0.7,
        **VTRACE,  # type: ignore[arg-type]
    )
    for max_tokens in (20, 10_000):
        expect_exact(masked_trees(3), config, with_reference=True, max_tokens=max_tokens)


@pytest.mark.parametrize("norm", ["token", "rollout", "tree"])
@pytest.mark.parametrize("scale_rewards", ["none", "group", "batch"])
@pytest.mark.parametrize("max_tokens", [1, 10_000])
def test_normalisation_is_of_the_whole_batch(norm: str, scale_rewards: str, max_tokens: int) -> None:
    config = ObjectiveConfig(norm=norm, scale_rewards=scale_rewards, skip_zero_std=False)  # type: ignore[arg-type]
    expect_exact(random_trees(seed=5, count=4), config, max_tokens=max_tokens)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_all_terms_together(estimator: str) -> None:
    config = ObjectiveConfig(
        advantage="vtrace",
        loss="vtrace_pg",
        entropy_scaling="sequence",
        entropy_coef=0.02,
        kl_coef=0.1,
        kl_estimator=estimator,  # type: ignore[arg-type]
        norm="rollout",
        temperature=0.7,
        **VTRACE,  # type: ignore[arg-type]
    )
    expect_exact(random_trees(seed=9), config, with_reference=True, max_tokens=40)
