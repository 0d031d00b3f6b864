"""Models with recurrent layers: exact by the package tree-recurrence, refused by name where it is not."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Lfm2Config,
    Lfm2ForCausalLM,
    NemotronHConfig,
    NemotronHForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from tests.learner.update.test_exactness import random_trees
from trieline.learner.batch.batch import prepare_batch
from trieline.learner.errors import ModelRefusedError
from trieline.learner.model.model_check import check_model
from trieline.learner.model.recurrence import trie_arguments
from trieline.learner.model.tree_forward import TreeModel
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.update.train_step import accumulate_gradients

SHAPE: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}
DELTA: dict[str, Any] = {
    "head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
HYBRIDS: dict[str, Any] = {
    "lfm2": lambda: Lfm2ForCausalLM(
        Lfm2Config(**SHAPE, layer_types=["conv", "full_attention"], conv_L_cache=3)
    ),
    "qwen3_5": lambda: Qwen3_5ForCausalLM(Qwen3_5TextConfig(**SHAPE, **DELTA)),
    "qwen3_next": lambda: Qwen3NextForCausalLM(
        Qwen3NextConfig(
            **SHAPE,
            **DELTA,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=16,
        )
    ),
    "nemotron_h": lambda: NemotronHForCausalLM(
        NemotronHConfig(
            **SHAPE,
            head_dim=8,
            layers_block_type=["linear_attention", "full_attention"],
            mamba_num_heads=4,
            mamba_head_dim=8,
            n_groups=2,
            ssm_state_size=8,
            chunk_size=16,
        )
    ),
}


@pytest.mark.parametrize("family", HYBRIDS)
def test_without_the_package_they_are_refused_by_name(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tree_recurrence", None)
    with pytest.raises(ModelRefusedError, match=r"layers of type .*; only .*trieline\[recurrent\]"):
        TreeModel(HYBRIDS[family]())


def test_segments_are_chains_below_chains() -> None:
    ends = torch.tensor([6, 6, 4, 4, 6, 6, 8, 8])  # 0 1 (2 3) (4 5), 6 7
    segments, parents, depths = (t.tolist() for t in trie_arguments(ends).values())
    assert segments == [0, 2, 4, 6, 8]
    assert parents == [-1, 0, 0, -1]
    assert depths == [0, 1, 1, 0]


@pytest.mark.parametrize("family", HYBRIDS)
def test_with_the_package_they_are_exact(family: str, tmp_path: Path) -> None:
    pytest.importorskip("tree_recurrence")
    torch.manual_seed(0)
    HYBRIDS[family]().save_pretrained(tmp_path)
    result = check_model(tmp_path)
    assert result.exact, result.lines


def test_beyond_the_budget_they_are_refused() -> None:
    pytest.importorskip("tree_recurrence")
    torch.manual_seed(0)
    model, config = TreeModel(HYBRIDS["lfm2"]()), ObjectiveConfig()
    batch = prepare_batch(random_trees(seed=4), config, max_tokens=12)
    with pytest.raises(ModelRefusedError, match="runs depth-first, which recurrent layers can't"):
        accumulate_gradients(model, batch, config, policy_version=0)
