"""What the policy server records is what the learner recomputes, as the benchmark measures it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.agreement import alone, apart, cached, learner_logprobs, padded, sample
from tests.learner.policy_server.cpu.tiny import save_model


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_server_and_learner_agree(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    folder = save_model(tmp_path, kind)
    rng = np.random.default_rng(0)
    shared = rng.integers(0, 300, 30).astype(np.int32)
    prompts = [np.concatenate([shared, rng.integers(0, 300, n).astype(np.int32)]) for n in (1, 5, 5, 17)]
    pairs, recorded = sample(folder, dtype, [prompts[i // 3] for i in range(12)], 16)
    found = apart(recorded, learner_logprobs(folder, dtype, pairs))
    if dtype == torch.float32:
        assert found["max"] < 1e-4
        return
    # No more than the shape of the batch moves transformers' own forward.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    single = alone(model, pairs)
    others = [apart(single, other(model, pairs)) for other in (padded, cached)]
    assert found["mean"] <= max(other["mean"] for other in others)
    assert found["max"] <= max(other["max"] for other in others)
