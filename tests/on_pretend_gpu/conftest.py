import os
from collections.abc import Iterator

import pytest
import torch

# Triton decides when it is imported whether it interprets: `tests/kernels/test_under_interpreter` runs these.
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") else ["test_gpu_engine.py", "test_learner.py"]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tensors this small gain nothing from threads."""
    torch.set_num_threads(1)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    from tests.on_pretend_gpu.pretend import pretend_device

    with pretend_device(monkeypatch) as pretended:
        yield pretended
