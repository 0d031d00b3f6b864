"""Against a real vLLM: `TRIELINE_VLLM` names its executable, `/opt/vllm/bin/vllm`, say."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.learner.policy_server.foreign.asking import answers, give, submit
from trieline.learner.model_folder.tiny_model import save_tiny_model
from trieline.learner.policy_server.config import EngineConfig, PolicyServerConfig
from trieline.learner.policy_server.engine import EnginePlace, Refused
from trieline.learner.policy_server.foreign.engine import ForeignEngine
from trieline.learner.policy_server.foreign.start import start_engine
from trieline.wire.config import ModelConfig
from trieline.wire.messages import Completion, GenerateRequest, Sampling

VLLM = os.environ.get("TRIELINE_VLLM", "")
PROMPT = np.arange(40, 72, dtype=np.int32)

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not VLLM, reason="TRIELINE_VLLM names no vLLM"),
    pytest.mark.timeout(1500),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[ForeignEngine]:
    config = PolicyServerConfig(
        backend="vllm",
        max_rows=8,
        max_context=1024,
        engine=EngineConfig(
            command=[VLLM, "serve"],
            arguments=["--enforce-eager", "--max-model-len", "1024"],
            request_timeout_s=280.0,
            environment={"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
        ),
    )
    model = ModelConfig(path=str(folder), dtype="float32")
    engine = start_engine(config, model, EnginePlace(log_file=folder / "vllm.log"))
    yield engine
    engine.close()


def ask(engine: ForeignEngine, count: int = 1, **sampling: object) -> list[Completion]:
    given = Sampling(**sampling)  # type: ignore[arg-type]
    submit(engine, *(GenerateRequest(request_id=n, prompt=PROMPT, sampling=given) for n in range(count)))
    found = answers(engine, count, deadline_s=300.0)
    assert not any(isinstance(one, Refused) for one in found.values()), found
    return [one for one in found.values() if isinstance(one, Completion)]


@torch.no_grad()
def recomputed(folder: Path, completion: Completion) -> torch.Tensor:
    """[K, V] log-probabilities as transformers computes them."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.from_numpy(np.concatenate([PROMPT, completion.token_ids]).astype(np.int64))
    logits = model(ids[None]).logits[0, len(PROMPT) - 1 : -1]
    logprobs: torch.Tensor = logits.double().log_softmax(-1)
    return logprobs


def test_it_samples_from_what_is_recomputed(engine: ForeignEngine, folder: Path) -> None:
    (completion,) = ask(engine, max_tokens=40)
    assert completion.policy_versions.tolist() == [0] * 40
    exact = recomputed(folder, completion)
    ours = exact[torch.arange(40), torch.from_numpy(completion.token_ids.astype(np.int64))].numpy()
    np.testing.assert_allclose(completion.logprobs, ours, atol=1e-3)
    entropies = -(exact.exp() * exact).sum(-1).numpy()
    # A random model's distributions are nearly flat, where the estimate is worst.
    np.testing.assert_allclose(completion.entropies, entropies, atol=0.5)


def test_top_k_is_told_by_masks(engine: ForeignEngine, folder: Path) -> None:
    (completion,) = ask(engine, max_tokens=6, top_k=4, top_p=0.9, temperature=0.7, tell_masks=True)
    exact = recomputed(folder, completion) / 0.7
    for place in range(6):
        mask = int(completion.mask_index[place])
        runs = completion.mask_runs.reshape(-1, 2)[
            completion.mask_offsets[mask] : completion.mask_offsets[mask + 1]
        ]
        left = [token for start, stop in runs.tolist() for token in range(start, stop)]
        assert 1 <= len(left) <= 4
        among = exact[place][left].log_softmax(-1)[left.index(int(completion.token_ids[place]))]
        assert completion.logprobs[place] == pytest.approx(float(among), abs=1e-3)


def test_greedy_is_told_at_temperature_one(engine: ForeignEngine, folder: Path) -> None:
    (completion,) = ask(engine, max_tokens=5, temperature=0.0)
    exact = recomputed(folder, completion)
    assert exact.argmax(-1).tolist() == completion.token_ids.tolist()
    np.testing.assert_allclose(completion.logprobs, exact.max(-1).values.numpy(), atol=1e-3)


def test_it_stops_where_it_is_told_to(engine: ForeignEngine) -> None:
    (completion,) = ask(engine, max_tokens=900, stop_ids=tuple(range(100, 160)))
    assert completion.finish_reason == "stop"
    assert 100 <= completion.token_ids[-1] < 160
    (completion,) = ask(engine, max_tokens=900, stop=("e", "t", "a"))
    assert completion.stop in ("e", "t", "a")
    assert bytes(completion.token_ids[-1:].astype(np.uint8)).decode() == completion.stop


def test_new_weights_while_it_samples(engine: ForeignEngine, folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    torch.manual_seed(1)
    other = {name: tensor + 0.05 * torch.randn_like(tensor) for name, tensor in weights.items()}
    save_file(other, tmp_path / "policy.safetensors", metadata={"format": "pt"})
    loaded: list[float] = []

    def load() -> None:
        time.sleep(0.2)
        began = time.monotonic()
        give(engine, tmp_path / "policy.safetensors", 7)
        loaded.append(time.monotonic() - began)

    thread = threading.Thread(target=load)
    thread.start()
    completions = ask(engine, 4, max_tokens=900)
    thread.join(300.0)
    assert loaded
    for one in completions:
        assert set(one.policy_versions.tolist()) == {0, 7}
        assert (np.diff(one.policy_versions) >= 0).all()
    (after,) = ask(engine, max_tokens=20)
    assert after.policy_versions.tolist() == [7] * 20
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model.load_state_dict(other, strict=False)
        model.save_pretrained(tmp_path / "other")
    exact = recomputed(tmp_path / "other", after)
    ours = exact[torch.arange(20), torch.from_numpy(after.token_ids.astype(np.int64))].numpy()
    np.testing.assert_allclose(after.logprobs, ours, atol=1e-3)
    # Those that went on did so from keys and values of the new weights.
    mixed = completions[0]
    exact = recomputed(tmp_path / "other", mixed)
    ours = exact[torch.arange(len(exact)), torch.from_numpy(mixed.token_ids.astype(np.int64))].numpy()
    new = mixed.policy_versions == 7
    np.testing.assert_allclose(mixed.logprobs[new], ours[new], atol=1e-3)
