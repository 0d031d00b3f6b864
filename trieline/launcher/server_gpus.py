"""How many GPUs of a node a policy server is to have, where somebody hands them out."""

import itertools
import math
import re
from collections.abc import Sequence

from trieline.learner.policy_server.config import PolicyServerConfig

_PARALLEL = re.compile(
    r"--(?:tensor|pipeline|data)[-_]parallel[-_]size|--(?:tp|pp|dp)[-_]size|--(?:tp|pp|dp)|-(?:tp|pp|dp)"
)
# Ray counts shares to this many digits.
_SHARES = 10_000


def gpus_of_server(server: PolicyServerConfig, *, there: int, servers: int) -> float:
    """Of the `there` GPUs of a node, for each of the `servers` policy servers that it has.

    An engine of others takes whole ones; ours shares one if there are fewer than servers.
    """
    if server.device == "cpu" or server.engine.urls:
        return 0
    if server.device == "cuda":
        return 1
    if there == 0:
        return 0
    if server.backend != "own":
        return _ranks_of(server.engine.arguments)
    return min(1.0, math.floor(_SHARES * there / servers) / _SHARES)


def _ranks_of(arguments: Sequence[str]) -> int:
    """As many GPUs as vLLM or SGLang are told to use: the product of what is parallel."""
    ranks = 1
    words = [word for argument in arguments for word in argument.split("=", 1)]
    for flag, value in itertools.pairwise(words):
        if _PARALLEL.fullmatch(flag) and value.isdecimal():
            ranks *= max(1, int(value))
    return ranks
