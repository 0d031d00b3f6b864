"""What sequences of tokens have in common from their start."""

from typing import Any

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.integer[Any]]


def common_prefix(first: Tokens, *others: Tokens) -> int:
    """How many tokens all of them begin with."""
    length = len(first)
    for other in others:
        length = min(length, len(other))
        differs = first[:length] != other[:length]
        # Of an array without any difference `argmax` is 0; an empty one has none.
        if length and differs[at := int(differs.argmax())]:
            length = at
    return length
