"""Layers that are computed again in the backward: the same gradients, and no others."""

import pytest
import torch

from tests.learner.tiny_models import tiny_hf_model, tiny_pair
from tests.learner.update.test_exactness import random_trees
from trieline.learner.batch.batch import prepare_batch
from trieline.learner.errors import ModelRefusedError
from trieline.learner.model.checkpointing import checkpoint_layers
from trieline.learner.model.tree_forward import TreeContext, TreeModel
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.update.train_step import accumulate_gradients


def gradients(model: TreeModel, max_tokens: int) -> dict[str, torch.Tensor]:
    trees, config = random_trees(seed=4), ObjectiveConfig(advantage="vtrace", loss="vtrace_pg")
    accumulate_gradients(model, prepare_batch(trees, config, max_tokens=max_tokens), config, policy_version=0)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("max_tokens", [12, 10_000])
@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_gradients_are_the_same_bit_for_bit(architecture: str, max_tokens: int) -> None:
    plain, _ = tiny_pair(architecture)
    model, _ = tiny_pair(architecture)
    checkpoint_layers(model)
    got, expected = gradients(model, max_tokens), gradients(plain, max_tokens)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_layers_run_again_in_the_backward_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = tiny_pair("llama")
    checkpoint_layers(model)
    calls: list[int] = []
    attend = TreeContext.attend

    def counted(self: TreeContext, *inputs: torch.Tensor, **settings: float) -> torch.Tensor:
        calls.append(len(self.windows))
        return attend(self, *inputs, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(TreeContext, "attend", counted)
    gradients(model, 10_000)
    assert len(calls) % 4 == 0
    assert calls[:4] == [0, 1, 2, 3], "two layers, and the same two again"


def test_a_model_without_such_layers_is_refused() -> None:
    hf_model = tiny_hf_model("llama")
    model = TreeModel(hf_model)
    hf_model.model.layers = torch.nn.ModuleList()
    with pytest.raises(ModelRefusedError, match="no layers that can be computed again"):
        checkpoint_layers(model)
