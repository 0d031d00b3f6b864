import os
from collections.abc import Iterator

import pytest
import torch

# Triton decides when it is imported whether it interprets: without a GPU `test_under_interpreter` runs these.
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") or torch.cuda.is_available() else ["gpu"]


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from threads, and on a busy machine lose much."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
