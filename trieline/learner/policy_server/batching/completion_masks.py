"""The masks under which the tokens of one completion were sampled, as its columns have them."""

from typing import TypedDict

import numpy as np

from trieline.common.arrays import Int32
from trieline.learner.policy_server.errors import InvalidRequestError

MAX_BYTES = 16 * 1024 * 1024
"""Of one completion: a quarter of what a message may have, if nobody changed `links.max_message_bytes`."""


class MaskColumns(TypedDict, total=False):
    """As a `Completion` has them."""

    mask_index: Int32
    mask_offsets: Int32
    mask_runs: Int32


class CompletionMasks:
    """Grows token by token. Equal masks are kept once."""

    def __init__(self) -> None:
        self._index: list[int] = []
        self._numbers: dict[bytes, int] = {}
        self._num_bytes = 0

    def add(self, runs: Int32 | None) -> None:
        """Of the next token; None: it had none.

        Raises:
            InvalidRequestError: together they are more than can be sent.
        """
        if runs is None:
            self._index.append(-1)
            return
        raw = runs.tobytes()
        if raw not in self._numbers:
            self._num_bytes += len(raw)
            self._numbers[raw] = len(self._numbers)
        self._index.append(self._numbers[raw])
        if self._num_bytes > MAX_BYTES:
            msg = (
                f"expected masks of at most {MAX_BYTES} bytes in a completion, got more after "
                f"{len(self._index)} tokens: ask for fewer tokens, a smaller top_p or top_k, or not for masks"
            )
            raise InvalidRequestError(msg)

    def columns(self) -> MaskColumns:
        """The columns of a `Completion` of them; none if no token had one."""
        if not self._numbers:
            return {}
        runs = [np.frombuffer(raw, np.int32) for raw in self._numbers]
        return {
            "mask_index": np.array(self._index, np.int32),
            "mask_offsets": np.cumsum([0, *(len(one) // 2 for one in runs)]).astype(np.int32),
            "mask_runs": np.concatenate(runs),
        }
