"""Two and three ranks of gloo compute the gradient, the metrics and the steps of one process, in float64.

All cases run in the same three processes: starting them takes longer than what they compute.
"""

import itertools
import warnings
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import FileStore
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import spawn

from tests.learner.tiny_models import VOCAB_SIZE, tiny_hf_model, tiny_pair
from tests.trees import random_tree
from trieline.common.tally import Tally
from trieline.learner.batch.batch import Batch, prepare_batch
from trieline.learner.config import LoraConfig, OptimizerConfig
from trieline.learner.errors import ModelRefusedError
from trieline.learner.model.adapters import Adapters
from trieline.learner.model.sharding import release, shard_model
from trieline.learner.model.tree_forward import TreeModel
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.update.sharded_optimizer import ShardedOptimizer
from trieline.learner.update.shared_gradient import accumulate_share
from trieline.learner.update.train_step import accumulate_gradients, recompute_logprobs
from trieline.wire.tree import TrajectoryTree

TOLERANCE = 1e-10
LARGEST = 3
PAIR_COST = 0.1
ONE_PASS, DEPTH_FIRST, SOME_OF_BOTH = 10_000, 12, 30
"""Trie tokens of a pass: every trie fits, none does, some do."""
VTRACE = ObjectiveConfig(
    advantage="vtrace",
    loss="vtrace_pg",
    entropy_scaling="sequence",
    entropy_coef=0.02,
    kl_coef=0.1,
    norm="rollout",
    value_coef=0.7,
)
OBJECTIVES = [
    VTRACE,
    ObjectiveConfig(advantage="tree", loss="ppo_clip", scale_rewards="batch", norm="tree"),
    ObjectiveConfig(loss="tis", entropy_scaling="token"),
    ObjectiveConfig(loss="icepop"),
    ObjectiveConfig(loss="sft"),
]
CASES = [
    *itertools.product(OBJECTIVES, ["layer"], [ONE_PASS]),
    (VTRACE, "step", ONE_PASS),
    *itertools.product([VTRACE, OBJECTIVES[1]], ["step"], [SOME_OF_BOTH]),
    (VTRACE, "layer", DEPTH_FIRST),
]


def random_trees(seed: int, count: int) -> list[TrajectoryTree]:
    rng = np.random.default_rng(seed)
    return [
        random_tree(rng, vocab_size=VOCAB_SIZE, max_nodes=7, max_node_tokens=4, task_id=str(i))
        for i in range(count)
    ]


def test_ranks_compute_what_one_process_does(tmp_path: Path) -> None:
    spawn(_as_rank, (str(tmp_path / "store"),), nprocs=LARGEST)  # type: ignore[no-untyped-call]


def test_a_trie_that_a_model_cant_divide_is_refused_on_every_rank_alike() -> None:
    """The others would wait for half an hour for the one that has it."""
    model, _ = tiny_pair("llama")
    model.is_recurrent = True
    config = VTRACE
    batch = prepare_batch(random_trees(1, count=1), config, max_tokens=3, num_ranks=2, pair_cost=PAIR_COST)
    assert sorted(map(len, batch.shares)) == [0, 1]
    for rank in range(2):
        with pytest.raises(ModelRefusedError, match="which recurrent layers can't: raise max_tokens"):
            accumulate_share(
                model, batch, config, rank=rank, gather="layer", pair_cost=PAIR_COST, policy_version=0
            )


def _as_rank(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", store=FileStore(store, LARGEST), rank=rank, world_size=LARGEST)
    for size in (2, LARGEST):
        mesh = DeviceMesh("cpu", list(range(size)))
        if rank < size:
            _compare(rank, mesh)
        dist.barrier()
    dist.destroy_process_group()


def _compare(rank: int, mesh: DeviceMesh) -> None:
    # An expert of the mixture may have tokens on one rank alone; one step has fewer trees than ranks.
    for architecture, cases in (("llama", CASES), ("qwen3_moe", CASES[:1])):
        (one, _), (many, _) = tiny_pair(architecture), tiny_pair(architecture)
        references = [TreeModel(tiny_hf_model(architecture, seed=1)).requires_grad_(False) for _ in range(2)]
        for model in (many, references[1]):
            shard_model(model, mesh, torch.float64)
        for number, (config, gather, max_tokens) in enumerate(cases):
            trees = random_trees(number + 1, count={1: 1, 8: 2}.get(number, 5))
            batches = [
                prepare_batch(trees, config, max_tokens=max_tokens),
                prepare_batch(
                    trees, config, max_tokens=max_tokens, num_ranks=mesh.size(), pair_cost=PAIR_COST
                ),
            ]
            assert batches[0].packs, "something to learn from"
            one.zero_grad()
            many.zero_grad()
            frozen = references if config.kl_coef else [None, None]
            wanted = accumulate_gradients(one, batches[0], config, policy_version=0, reference=frozen[0])
            got = _share(many, batches[1], config, rank, gather, frozen[1], mesh)
            _expect_equal(one, many, wanted, got)
        _expect_equal_steps(one, many, rank, mesh)
    _compare_adapters(rank, mesh)


def _compare_adapters(rank: int, mesh: DeviceMesh) -> None:
    """Of the KL term, the reference is the model itself without them."""
    (one, _), (many, _) = tiny_pair(), tiny_pair()
    for model in (one, many):
        Adapters(model.hf_model, LoraConfig(rank=5), Path("/base"))
        torch.manual_seed(1)
        for name, parameter in model.hf_model.named_parameters():
            if "lora_" in name:
                nn.init.normal_(parameter, std=0.2)
    shard_model(many, mesh, torch.float64)
    for number, (gather, max_tokens) in enumerate(
        [("layer", ONE_PASS), ("step", SOME_OF_BOTH), ("layer", DEPTH_FIRST)]
    ):
        trees = random_trees(200 + number, count=5)
        one.zero_grad()
        many.zero_grad()
        batch = prepare_batch(trees, VTRACE, max_tokens=max_tokens)
        spread = prepare_batch(
            trees, VTRACE, max_tokens=max_tokens, num_ranks=mesh.size(), pair_cost=PAIR_COST
        )
        wanted = accumulate_gradients(one, batch, VTRACE, policy_version=0, reference=one)
        _expect_equal(one, many, wanted, _share(many, spread, VTRACE, rank, gather, many, mesh))
        trained = {name for name, p in many.hf_model.named_parameters() if p.grad is not None}
        assert len(trained) == 2 * 2 * 7
        assert all("lora_" in name for name in trained)
    _expect_equal_steps(one, many, rank, mesh)


def _share(
    model: TreeModel,
    batch: Batch,
    config: ObjectiveConfig,
    rank: int,
    gather: str,
    reference: TreeModel | None,
    mesh: DeviceMesh,
) -> Tally:
    own = accumulate_share(
        model,
        batch,
        config,
        rank=rank,
        gather=gather,  # type: ignore[arg-type]
        pair_cost=PAIR_COST,
        policy_version=0,
        reference=reference,
    )
    shares: list[Tally] = [Tally()] * mesh.size()
    dist.all_gather_object(shares, own, group=mesh.get_group())
    together = Tally()
    for share in shares:
        together.add(share)
    return together


def _expect_equal(one: TreeModel, many: TreeModel, wanted: Tally, got: Tally) -> None:
    assert set(got) == set(wanted)
    packing = {"batch/packs", "batch/trie_tokens", "batch/waste", "tree/token_ratio", "tree/saving"}
    for name in wanted.keys() - packing - {"batch/visible_pairs"}:
        assert got[name] == pytest.approx(wanted[name], rel=TOLERANCE, abs=TOLERANCE), name
    gradients = {name: _whole(p.grad) for name, p in many.named_parameters() if p.grad is not None}
    for name, parameter in one.named_parameters():
        gradient = parameter.grad
        if gradient is None:
            assert not gradients.get(name, torch.zeros(1)).any(), name
            continue
        error = float((gradients[name] - gradient).norm() / gradient.norm().clamp_min(1e-12))
        assert error < TOLERANCE, f"{name}: {error:.2e}"


def _expect_equal_steps(one: TreeModel, many: TreeModel, rank: int, mesh: DeviceMesh) -> None:
    """The gradient is clipped, weights are decayed, and what was gathered before is not used afterwards."""
    config = OptimizerConfig(lr=1e-2, weight_decay=0.1, max_grad_norm=1e-2)
    trained = {name: p for name, p in one.named_parameters() if p.requires_grad}
    reference = torch.optim.AdamW(trained.values(), lr=1e-2, betas=config.betas, weight_decay=0.1)
    optimizer = ShardedOptimizer(many.named_parameters(), config, total_steps=3)
    # Of the second one the value head has no gradient, and is decayed all the same.
    objectives = [msgspec.structs.replace(VTRACE, kl_coef=0.0), ObjectiveConfig(loss="sft")] * 2
    for number, objective in enumerate(objectives[:3]):
        trees = random_trees(100 + number, count=4)
        one.zero_grad()
        many.zero_grad()
        batch = prepare_batch(trees, objective, max_tokens=ONE_PASS)
        accumulate_gradients(one, batch, objective, policy_version=0)
        spread = prepare_batch(trees, objective, max_tokens=ONE_PASS, num_ranks=mesh.size())
        _share(many, spread, objective, rank, "layer", None, mesh)
        without = [parameter for parameter in trained.values() if parameter.grad is None]
        assert bool(without) == (objective.loss == "sft")
        for parameter in without:
            parameter.grad = torch.zeros_like(parameter)
        norm = nn.utils.clip_grad_norm_(trained.values(), config.max_grad_norm)
        reference.step()
        update = optimizer.step()
        assert update.applied
        assert update.grad_norm == pytest.approx(float(norm), rel=TOLERANCE)
        expected, found = (recompute_logprobs(model, trees) for model in (one, many))
        release(many)
        assert all((a == b).all() for a, b in zip(expected, found, strict=True))
    for name, parameter in trained.items():
        whole = _whole(optimizer.masters()[name])
        torch.testing.assert_close(whole, parameter.detach(), rtol=1e-9, atol=1e-12)


def _whole(tensor: torch.Tensor | None) -> torch.Tensor:
    assert isinstance(tensor, DTensor)
    return tensor.full_tensor()
