"""How the queries of a part are handed out to threads."""

import pytest

from trieline.kernels.cpu.flash_parts import num_slices


@pytest.mark.parametrize(
    ("key_heads", "queries", "threads", "expected"),
    [(3, 1000, 2, 2), (4, 1000, 2, 1), (3, 100, 2, 1), (3, 1000, 16, 5), (8, 1000, 64, 8), (1, 640, 64, 10)],
)
def test_slices_keep_threads_busy(key_heads: int, queries: int, threads: int, expected: int) -> None:
    assert num_slices(key_heads, queries, threads) == expected
