"""What no engine can answer, whatever it is."""

import numpy as np

from trieline.learner.policy_server.errors import InvalidRequestError
from trieline.wire.messages import GenerateRequest


def expect_possible(request: GenerateRequest, *, vocab_size: int, max_context: int) -> None:
    """Raise InvalidRequestError, which says the bound that the request breaks."""
    prompt, sampling = request.prompt, request.sampling
    if len(prompt) == 0:
        msg = "expected a prompt of at least one token, got none"
        raise InvalidRequestError(msg)
    low, high = int(prompt.min()), int(prompt.max())
    if low < 0 or high >= vocab_size:
        msg = f"expected prompt tokens in [0, {vocab_size}), got {low}..{high}"
        raise InvalidRequestError(msg)
    if len(prompt) + sampling.max_tokens > max_context:
        msg = (
            f"expected prompt and completion of at most {max_context} tokens, "
            f"got {len(prompt)} + {sampling.max_tokens}"
        )
        raise InvalidRequestError(msg)
    if not np.isfinite(sampling.temperature):
        msg = f"expected a finite temperature, got {sampling.temperature}"
        raise InvalidRequestError(msg)
