"""bitsandbytes is imported without what it would fetch: a program from a hub, on some CPUs, by `kernels`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_kernels() -> Iterator[None]:
    """Inside, `kernels` is not found by who imports it. What needs it and is there already keeps it."""
    known = sys.modules.get("kernels")
    sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["kernels"]
        if known is not None:
            sys.modules["kernels"] = known
