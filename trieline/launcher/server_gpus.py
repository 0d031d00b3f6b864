"""How many GPUs of a node a policy server is to have, where somebody hands them out."""

import itertools
import math
import re
from collections.abc import Sequence

from trieline.learner.policy_server.config import PolicyServerConfig

# The one group that is found is the letter of what is parallel.
_PARALLEL = re.compile(r"--(?:(t)ensor|(p)ipeline|(d)ata)[-_]parallel[-_]size|--([tpd])p[-_]size|--?([tpd])p")
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
        return _ranks_of([*server.engine.command, *server.engine.arguments])
    return min(1.0, math.floor(_SHARES * there / servers) / _SHARES)


def _ranks_of(arguments: Sequence[str]) -> int:
    """As many GPUs as vLLM or SGLang are told to use: the product of what is parallel, as was said last."""
    ranks: dict[str, int] = {}
    words = [word for argument in arguments for word in argument.split("=", 1)]
    for flag, value in itertools.pairwise(words):
        if (found := _PARALLEL.fullmatch(flag)) is not None and value.isdecimal():
            ranks[found[found.lastindex or 0]] = max(1, int(value))
    return math.prod(ranks.values())
