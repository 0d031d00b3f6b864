"""The settings of a policy server. Importable without torch."""

from typing import Annotated, Literal

import msgspec

from trieline.common.numbers import Positive, Seconds


class PolicyServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much one policy server takes on at once.

    A token's keys and values are 2 x layers x kv_heads x head_dim numbers: for SmolLM2-135M in bfloat16
    46 kB in a row (float32, as attention computes) and 23 kB in the prefix cache.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What it samples on. `auto`: the GPU if there is one."""
    threads: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    """CPU threads of the matrix products, at most: fewer while other programs use the cores. 0: as many as
    this process may use cores."""
    max_rows: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64
    """Requests that are decoded together."""
    max_waiting: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 4096
    """Requests that may wait for a row; more are refused as `overloaded`."""
    max_context: Positive = 8192
    """Tokens of prompt and completion together, also bounded by the model and by `kv_tokens`. A request for
    more is refused as `invalid`."""
    kv_tokens: Annotated[int, msgspec.Meta(ge=64)] = 65_536
    """Tokens of the rows' key-value cache: long requests lower the number of rows. On a CPU, shared prompts
    and what is kept for reuse have memory of their own beside; on a GPU they are part of it."""
    prefix_tokens: Annotated[int, msgspec.Meta(ge=0)] = 32_768
    """Tokens of finished sequences and shared prompts kept for reuse, least recently used out first."""
    prefill_tokens: Annotated[int, msgspec.Meta(ge=16, le=65_536)] = 1024
    """Prompt tokens computed in one step at most: what running requests wait for while prompts are read."""
    max_failures: Positive = 3
    """Steps that may fail, with no request answered in between, before the server exits with an error."""
    stop_grace_s: Seconds = 2.0
    """After SIGTERM or SIGINT, so long the refusals may take to leave."""
