"""What a model keeps of every token."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class KVShape:
    """What one token leaves behind in every layer."""

    layers: int
    heads: int
    key_width: int
    value_width: int
