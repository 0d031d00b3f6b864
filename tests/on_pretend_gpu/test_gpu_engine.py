"""The GPU's engine on a device that is not the CPU: what it gives is what the CPU's engine gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.learner.policy_server.cpu.test_engine import spelled
from tests.learner.policy_server.cpu.tiny import (
    generate,
    random_prompt,
    request,
    save_model,
    tiny_engine,
)
from trieline.kernels.gpu import slot_attention_op
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.decoders.choose_decoder import load_decoder
from trieline.learner.policy_server.gpu.gpu_engine import GpuEngine


def again(compute: Callable[[Tensor], Tensor], inputs: Tensor) -> Callable[[], Tensor]:
    return lambda: compute(inputs)


def test_requests_of_all_kinds_and_new_weights(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_attention_op, "PROGRAMS", 1)  # each takes the interpreter milliseconds
    folder, other = save_model(tmp_path / "model"), save_model(tmp_path / "other", seed=1)
    asked = []
    root = random_prompt(0, 40)
    for number in range(3):
        prompt = np.concatenate([root, random_prompt(100 + number, number)])
        how: dict[str, Any] = {"temperature": 0.0 if number == 1 else 0.8}
        if number == 2:
            how |= {"top_p": 0.8, "top_k": 30, "tell_masks": True}
        asked.append(request(number, prompt, max_tokens=3, seed=number, **how))
    limits: dict[str, Any] = {
        "max_rows": 2,
        "max_context": 64,
        "kv_tokens": 300,
        "prefix_tokens": 60,
        "prefill_tokens": 32,
    }
    on_cpu = tiny_engine(folder, decode=spelled, **limits)
    decoder = load_decoder(folder, torch.float32, device=device)
    engine = GpuEngine(decoder, PolicyServerConfig(**limits), decode=spelled, record=again)
    engine.warm_up()
    for weights in (None, other / "model.safetensors"):
        if weights is not None:
            for one in (engine, on_cpu):
                one.load(weights, 1)
        for found, expected in zip(generate(engine, *asked), generate(on_cpu, *asked), strict=True):
            np.testing.assert_array_equal(found.token_ids, expected.token_ids)
            np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-4)
            np.testing.assert_allclose(found.entropies, expected.entropies, atol=1e-4)
            np.testing.assert_array_equal(found.mask_runs, expected.mask_runs)
