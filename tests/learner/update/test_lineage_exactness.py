"""Loss and gradient of trees with edges equal those of separate sequences, in float64."""

from collections.abc import Sequence

import numpy as np
import pytest
from msgspec.structs import replace

from tests.learner.lineage_reference import lineage_loss
from tests.learner.tiny_models import VOCAB_SIZE, tiny_pair
from tests.lineages import compacted, nested
from tests.trees import NONE, random_tree
from trieline.learner.batch.batch import prepare_batch
from trieline.learner.batch.sequences import scored_sequences
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.update.train_step import accumulate_gradients
from trieline.wire.tree import TrajectoryTree

TOLERANCE = 1e-10
MODEL, PLAIN = tiny_pair("llama")
VTRACE = {"gamma": 0.97, "lam": 0.9, "rho_bar": 1.3, "c_bar": 0.8, "value_coef": 0.7}
SCALING = {"entropy_scale_min": 0.7, "entropy_scale_max": 1.4}


def expect_exact(trees: list[TrajectoryTree], config: ObjectiveConfig, *, max_tokens: int) -> None:
    config.validate()
    for model in (MODEL, PLAIN):
        model.zero_grad(set_to_none=True)
    head = MODEL.value_head if config.needs_value_head else None
    expected = lineage_loss(trees, config, PLAIN, head)
    batch = prepare_batch(trees, config, max_tokens=max_tokens)
    assert (expected is None) == (not batch.packs)
    if expected is None:
        return
    expected.backward()  # type: ignore[no-untyped-call]
    wanted = {name: p.grad for name, p in PLAIN.named_parameters()}
    if head is not None:
        wanted |= {f"value_head.{name}": p.grad for name, p in head.named_parameters()}
    MODEL.zero_grad(set_to_none=True)
    metrics = accumulate_gradients(MODEL, batch, config, policy_version=0)
    assert metrics["loss/total"] == pytest.approx(float(expected.detach()), abs=TOLERANCE, rel=TOLERANCE)
    got = {name.removeprefix("hf_model."): p.grad for name, p in MODEL.named_parameters()}
    for name, gradient in wanted.items():
        actual = got[name]
        assert gradient is not None, name
        assert actual is not None, name
        error = float((actual - gradient).norm() / gradient.norm().clamp_min(1e-12))
        assert error < TOLERANCE, f"{name}: {error:.2e}"


def objective(advantage: str, norm: str, *, scaling: str = "off", rewards: str = "none") -> ObjectiveConfig:
    vtrace = advantage == "vtrace"
    return ObjectiveConfig(
        advantage=advantage,  # type: ignore[arg-type]
        norm=norm,  # type: ignore[arg-type]
        loss="vtrace_pg" if vtrace else "ppo_clip",
        entropy_scaling=scaling,  # type: ignore[arg-type]
        scale_rewards="none" if vtrace else rewards,  # type: ignore[arg-type]
        **(VTRACE if vtrace else {}),  # type: ignore[arg-type]
        **(SCALING if scaling != "off" else {}),  # type: ignore[arg-type]
    )


def few_tokens(broken: Sequence[str] = ()) -> list[TrajectoryTree]:
    """Two levels of sub-agents, and compactions; with so few different tokens that branches begin alike."""
    trees = (
        nested(vocab_size=3, seed=1, broken=broken),
        compacted(vocab_size=3, seed=2, broken=broken),
        compacted(vocab_size=3, seed=3, to_replies=True, broken=broken),
    )
    return [replace(tree, task_id=str(i)) for i, tree in enumerate(trees)]


@pytest.mark.parametrize("norm", ["token", "rollout", "tree"])
@pytest.mark.parametrize(("advantage", "max_tokens"), [("group", 8), ("tree", 10_000), ("vtrace", 8)])
def test_sub_agents_and_compactions(advantage: str, norm: str, max_tokens: int) -> None:
    expect_exact(few_tokens(), objective(advantage, norm), max_tokens=max_tokens)


@pytest.mark.parametrize("advantage", ["group", "vtrace"])
@pytest.mark.parametrize("scaling", ["sequence", "token"])
def test_entropies_are_those_of_episodes(advantage: str, scaling: str) -> None:
    expect_exact(few_tokens(), objective(advantage, "rollout", scaling=scaling), max_tokens=10_000)


@pytest.mark.parametrize("rewards", ["group", "batch"])
def test_deviations_are_those_of_episodes(rewards: str) -> None:
    expect_exact(few_tokens(), objective("tree", "token", rewards=rewards), max_tokens=10_000)


@pytest.mark.parametrize("advantage", ["group", "tree", "vtrace"])
def test_broken_sub_agents(advantage: str) -> None:
    expect_exact(few_tokens(broken=["TELL"]), objective(advantage, "rollout"), max_tokens=10_000)


def leading(rng: np.random.Generator) -> TrajectoryTree:
    """A random tree in which a sequence that counts leads to another one."""
    while True:
        tree = random_tree(rng, vocab_size=VOCAB_SIZE, max_node_tokens=3, later_columns=True)
        if any(s.leads_to for s in scored_sequences([tree])[0]):
            without_masks = replace(tree, mask_index=NONE, mask_offsets=NONE, mask_runs=NONE)
            return replace(without_masks, leaf_groups=NONE, entropies=np.nan_to_num(tree.entropies))


@pytest.mark.parametrize("seed", range(9))
def test_edges_from_anywhere_to_anywhere(seed: int) -> None:
    rng = np.random.default_rng(seed)
    config = objective(["vtrace", "tree", "vtrace"][seed % 3], ["token", "rollout", "tree"][seed // 3])
    expect_exact([leading(rng), leading(rng)], config, max_tokens=12 if seed % 2 else 10_000)
