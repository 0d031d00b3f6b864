"""What a model keeps of every token."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class KVShape:
    """What one token leaves behind in every layer."""

    layers: int
    heads: int
    key_width: int
    value_width: int
    windows: tuple[int, ...] = ()
    """Of each layer, how many of the newest tokens, itself among them, a token sees; 0: all. (): no layer has
    a window."""

    def window(self, layer: int) -> int:
        return self.windows[layer] if self.windows else 0
