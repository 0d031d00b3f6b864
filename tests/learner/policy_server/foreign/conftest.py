from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.learner.policy_server.foreign.fake_engine import VOCAB, FakeEngine
from trieline.learner.policy_server.config import EngineConfig, PolicyServerConfig
from trieline.learner.policy_server.foreign.adapter_base import AdapterBase
from trieline.learner.policy_server.foreign.dialect import Served
from trieline.learner.policy_server.foreign.engine import ForeignEngine
from trieline.learner.policy_server.foreign.http_link import HttpLink
from trieline.learner.policy_server.foreign.staged_weights import StagedWeights
from trieline.learner.policy_server.foreign.start import DIALECTS


@pytest.fixture
def fake() -> Iterator[FakeEngine]:
    with FakeEngine() as engine:
        yield engine


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """Of a model of two tensors."""
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a.weight": torch.zeros(2, 3), "b.weight": torch.zeros(4)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def connect(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., ForeignEngine]]:
    """Engines over fakes: `connect(fake, backend="vllm", request_timeout_s=..)`, started."""
    # A fake that is away is back as soon as it is told to be.
    monkeypatch.setattr("trieline.learner.policy_server.foreign.engine.LOOK_S", 0.1)
    with ExitStack() as engines:

        def connected(
            fake: FakeEngine,
            backend: Any = "vllm",
            *,
            gives_up: Callable[[], str] = str,
            **settings: Any,
        ) -> ForeignEngine:
            given: dict[str, Any] = {
                "urls": (fake.url,),
                "request_timeout_s": 10.0,
                "startup_timeout_s": 10.0,
            } | settings
            config = PolicyServerConfig(backend=backend, max_rows=2, engine=EngineConfig(**given))
            served = Served(folder=model_folder, dtype="float32", vocab_size=VOCAB, config=config)
            dialect = DIALECTS[backend](served)
            engine = ForeignEngine(
                dialect,
                served,
                StagedWeights(
                    model_folder, tmp_path / "staged", None, AdapterBase(model_folder, torch.float32)
                ),
                make_link=lambda: HttpLink(
                    dialect.kind,
                    fake.url,
                    token="secret",
                    timeout_s=config.engine.request_timeout_s,
                    max_bytes=100_000,
                ),
            )
            engines.callback(engine.close)
            engine.start(gives_up)
            return engine

        yield connected
