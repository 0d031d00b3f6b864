"""LoRA adapters of peft on tries; what peft does outside of the layers is refused."""

import copy
from typing import Any

import peft
import pytest
import torch

from tests.learner.objective_reference import reference_loss
from tests.learner.tiny_models import tiny_hf_model
from tests.learner.update.test_exactness import GRADIENT_TOLERANCE, random_trees
from trieline.learner.batch.batch import prepare_batch
from trieline.learner.errors import ModelRefusedError
from trieline.learner.model.tree_forward import TreeModel
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.update.train_step import accumulate_gradients


def with_lora(**settings: Any) -> Any:
    """A model whose adapters already do something: their second factor starts at zero otherwise."""
    plain = tiny_hf_model("qwen3")
    plain.set_attn_implementation("sdpa")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, init_lora_weights=False, task_type="CAUSAL_LM", **settings)
    return peft.get_peft_model(plain, config, autocast_adapter_dtype=False).double()


@pytest.mark.parametrize("max_tokens", [12, 10_000])
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": "all-linear", "lora_dropout": 0.5},
        # Below the adapters nothing has a gradient.
        {"target_modules": ["k_proj", "down_proj"], "layers_to_transform": [1]},
    ],
    ids=["attention", "all", "last layer"],
)
def test_gradients_of_adapters(settings: dict[str, Any], max_tokens: int) -> None:
    plain = with_lora(**settings).eval()
    model = TreeModel(copy.deepcopy(plain))
    trees, config = random_trees(seed=4), ObjectiveConfig()
    expected = reference_loss(trees, config, plain, None, None)
    assert expected is not None
    expected.backward()  # type: ignore[no-untyped-call]
    accumulate_gradients(model, prepare_batch(trees, config, max_tokens=max_tokens), config, policy_version=0)
    wanted = {n.removeprefix("base_model.model."): p.grad for n, p in plain.named_parameters()}
    got = {n.removeprefix("hf_model."): p.grad for n, p in model.named_parameters()}
    trained = {n for n, gradient in wanted.items() if gradient is not None}
    assert trained == {n for n in wanted if "lora_" in n}
    assert {n for n, gradient in got.items() if gradient is not None} == trained
    for name in trained:
        error = (got[name] - wanted[name]).norm() / wanted[name].norm().clamp_min(1e-12)
        assert error < GRADIENT_TOLERANCE, name


def test_tokens_before_the_prompt_are_refused() -> None:
    plain = tiny_hf_model("llama")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(ModelRefusedError, match=r"PromptTuningConfig puts tokens before the prompt"):
        TreeModel(peft.get_peft_model(plain, config))
