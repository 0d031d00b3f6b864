"""The engine of a GPU keeps the contract on every device that is here, and computes what the CPU's does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.learner.policy_server.cpu.test_engine import spelled
from tests.learner.policy_server.cpu.tiny import (
    drain,
    expect_plain,
    generate,
    random_prompt,
    request,
    save_model,
    tiny_engine,
)
from trieline.learner.keeping.weight_file import ADAPTER_KEY, write_weights
from trieline.learner.policy_server.batching.stop_text import Decode
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.decoders.choose_decoder import load_decoder
from trieline.learner.policy_server.gpu.gpu_engine import GpuEngine
from trieline.learner.policy_server.gpu.slot_rows import SlotRows
from trieline.wire.messages import Completion

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def again(compute: Callable[[Tensor], Tensor], inputs: Tensor) -> Callable[[], Tensor]:
    """What a CUDA graph does: the same from what the inputs hold by then."""
    return lambda: compute(inputs)


def engine_on(
    device: torch.device,
    folder: Path,
    *,
    fused: bool = True,
    decode: Decode | None = None,
    recorded: bool = False,
    **limits: Any,
) -> GpuEngine:
    """`recorded`: its decoding steps are padded and repeated, as those of a CUDA graph."""
    decoder = load_decoder(folder, torch.float32, fused=fused, device=device)
    record = again if recorded and device.type == "cpu" else None
    # A table for the longest request: the plain attention of this test is padded to it.
    config = PolicyServerConfig(**{"max_rows": 6, "max_context": 200, "kv_tokens": 1500} | limits)
    engine = GpuEngine(decoder, config, decode=decode, record=record)
    if recorded:
        engine.warm_up()
    return engine


def rows_of(engine: GpuEngine) -> SlotRows:
    assert isinstance(engine._places, SlotRows)
    return engine._places


def expect_equal(found: Completion, expected: Completion) -> None:
    np.testing.assert_array_equal(found.token_ids, expected.token_ids)
    np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-4)
    np.testing.assert_allclose(found.entropies, expected.entropies, atol=1e-4)
    assert (found.finish_reason, found.stop) == (expected.finish_reason, expected.stop)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3", "mistral"])
def test_figures_are_those_of_a_plain_forward(
    family: str, fused: bool, device: torch.device, tmp_path: Path
) -> None:
    folder = save_model(tmp_path, family)
    engine = engine_on(device, folder, fused=fused, prefill_tokens=32)
    prompts = [random_prompt(seed, 1 + 11 * seed) for seed in range(6)]
    requests = [request(i, prompt, max_tokens=9, seed=i) for i, prompt in enumerate(prompts)]
    for prompt, completion in zip(prompts, generate(engine, *requests), strict=True):
        expect_plain(folder, prompt, completion)


@pytest.mark.parametrize("recorded", [False, True])
def test_any_mix_is_answered_as_by_the_engine_of_the_cpu(
    device: torch.device, recorded: bool, folder: Path
) -> None:
    rng = np.random.default_rng(3)
    roots = [random_prompt(root, int(rng.integers(1, 90))) for root in range(4)]
    asked = []
    for number in range(30):
        root = roots[int(rng.integers(4))]
        prompt = np.concatenate([root, random_prompt(100 + number, int(rng.integers(0, 8)))])
        how: dict[str, Any] = {"temperature": float(rng.choice([0.0, 0.7, 1.0]))}
        if number % 3 == 0:
            how |= {"top_p": 0.8, "top_k": 30, "tell_masks": number % 2 == 0}
        if number % 4 == 1:
            how["stop"] = (spelled([int(rng.integers(0, 300))]),)
        if number % 5 == 2:
            how["stop_ids"] = tuple(rng.integers(0, 300, 40).tolist())
        asked.append(request(number, prompt, max_tokens=int(rng.integers(1, 30)), seed=number, **how))
    expected = generate(tiny_engine(folder, decode=spelled), *asked)
    engine = engine_on(
        device, folder, decode=spelled, recorded=recorded, prefix_tokens=300, prefill_tokens=64
    )
    answers: dict[int, Completion] = {}
    for number, one in enumerate(asked):
        engine.submit(b"peer", one)
        # As they come: some join while others run.
        for _ in range(number % 3):
            answers |= {done.ticket[1]: done.completion for done in engine.step()}
    answers |= drain(engine)
    for number, completion in enumerate(expected):
        expect_equal(answers[number], completion)
        np.testing.assert_array_equal(answers[number].mask_runs, completion.mask_runs)
    assert engine.counters.reused > 300
    rows = rows_of(engine)
    assert rows.pool.num_free + rows.prefixes.num_tokens == 1500


def test_rollouts_of_one_prompt_read_it_once_and_share_its_slots(device: torch.device, folder: Path) -> None:
    engine = engine_on(device, folder, max_rows=8, kv_tokens=300)
    prompt = random_prompt(0, 60)
    for number in range(8):
        engine.submit(b"peer", request(number, prompt, max_tokens=20, seed=number))
    engine.step()
    engine.step()
    # 60 + 8 x 20 slots: eight copies of the prompt would not fit.
    assert engine.running == 8
    answers = drain(engine)
    assert engine.counters.prefilled == 60
    assert engine.counters.reused == 7 * 59
    for number in range(8):
        expect_plain(folder, prompt, answers[number])


@pytest.mark.parametrize("recorded", [False, True])
def test_weights_change_between_steps_and_no_request_is_lost(
    device: torch.device, recorded: bool, folder: Path, tmp_path: Path
) -> None:
    other = save_model(tmp_path, seed=1)
    engine = engine_on(device, folder, recorded=recorded, max_rows=3)
    prompts = [random_prompt(seed, 20) for seed in range(5)]
    for number, prompt in enumerate(prompts):
        engine.submit(b"peer", request(number, prompt, max_tokens=12, seed=number))
    for _ in range(4):
        engine.step()
    engine.load(other / "model.safetensors", 7)
    answers = drain(engine)
    assert sorted(answers) == list(range(5))
    versions = [sorted(set(answers[number].policy_versions.tolist())) for number in range(5)]
    assert versions == [[0, 7]] * 3 + [[7]] * 2
    for number in (3, 4):
        expect_plain(other, prompts[number], answers[number])
    # Nothing read by the old weights is used again.
    (late,) = generate(engine, request(9, prompts[0], max_tokens=5, seed=9))
    expect_plain(other, prompts[0], late)


def test_a_cancelled_request_leaves_at_once_and_all_can_be_dropped(
    device: torch.device, folder: Path
) -> None:
    engine = engine_on(device, folder, max_rows=2)
    prompt = random_prompt(0, 40)
    for number in range(4):
        engine.submit(b"peer", request(number, prompt, max_tokens=50, seed=number))
    for _ in range(3):
        engine.step()
    engine.cancel((b"peer", 0))
    engine.cancel((b"peer", 3))
    assert engine.running + engine.waiting == 2
    assert sorted(drain(engine)) == [1, 2]
    engine.submit(b"peer", request(5, prompt, max_tokens=50))
    engine.step()
    assert engine.drain() == [(b"peer", 5)]
    assert rows_of(engine).pool.num_free == 1500
    (after,) = generate(engine, request(6, prompt, max_tokens=5))
    expect_plain(folder, prompt, after)


def test_steps_that_can_not_be_recorded_run_one_by_one(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(compute: Callable[[Tensor], Tensor], inputs: Tensor) -> Callable[[], Tensor]:
        msg = "operation not permitted when stream is capturing\nand more"
        raise RuntimeError(msg)

    decoder = load_decoder(folder, torch.float32)
    engine = GpuEngine(decoder, PolicyServerConfig(kv_tokens=500), record=fails)
    engine.warm_up()
    assert "can't be CUDA graphs" in caplog.text
    assert "and more" not in caplog.text
    (completion,) = generate(engine, request(0, random_prompt(0, 9), max_tokens=5))
    expect_plain(folder, random_prompt(0, 9), completion)


def test_steps_without_adapters_are_not_repeated_where_those_with_them_can_not_be_recorded(
    folder: Path, tmp_path: Path
) -> None:
    full = False

    def record(compute: Callable[[Tensor], Tensor], inputs: Tensor) -> Callable[[], Tensor]:
        def repeat() -> Tensor:
            assert not full, "this knows nothing of adapters"
            return compute(inputs)

        if full:
            msg = "out of memory"
            raise RuntimeError(msg)
        return repeat

    engine = GpuEngine(load_decoder(folder, torch.float32), PolicyServerConfig(kv_tokens=500), record=record)
    engine.warm_up()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    write_weights(
        tmp_path / "adapters.safetensors",
        {name.format("A"): torch.ones(2, 48), name.format("B"): torch.ones(48, 2)},
        metadata={ADAPTER_KEY: '{"peft_type": "LORA", "r": 2, "lora_alpha": 2}'},
    )
    on_cpu = tiny_engine(folder)
    full = True
    for one in (engine, on_cpu):
        one.load(tmp_path / "adapters.safetensors", 1)
    asked = request(0, random_prompt(0, 9), max_tokens=5)
    expect_equal(generate(engine, asked)[0], generate(on_cpu, asked)[0])
