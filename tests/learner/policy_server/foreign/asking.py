"""Requests to an engine, and its answers once they are all there."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.learner.policy_server.foreign.fake_engine import DEADLINE_S
from trieline.learner.policy_server.engine import Refused
from trieline.learner.policy_server.foreign.engine import ForeignEngine
from trieline.wire.messages import Completion, GenerateRequest, Sampling

PEER = b"peer"
# A real one reads a model in it.
GIVE_S = 300.0


def give(engine: ForeignEngine, weights: Path, policy_version: int) -> None:
    """Until the engine has them."""
    engine.load(weights, policy_version).result(GIVE_S)


def request(number: int = 1, **sampling: Any) -> GenerateRequest:
    return GenerateRequest(
        request_id=number, prompt=np.array([5, 6, 7], np.int32), sampling=Sampling(**sampling)
    )


def submit(engine: ForeignEngine, *requests: GenerateRequest) -> None:
    for one in requests:
        engine.check(one)
        engine.submit(PEER, one)


def answers(
    engine: ForeignEngine, count: int = 1, *, deadline_s: float = DEADLINE_S
) -> dict[int, Completion | Refused]:
    """By the request's number."""
    found: dict[int, Completion | Refused] = {}
    deadline = time.monotonic() + deadline_s
    while len(found) < count:
        assert time.monotonic() < deadline, f"expected {count} answers, got {found}"
        found |= {one.ticket[1]: one.completion for one in engine.step()}
        found |= {one.ticket[1]: one for one in engine.take_refused()}
    return found


def completed(engine: ForeignEngine, **sampling: Any) -> Completion:
    submit(engine, request(**sampling))
    (answer,) = answers(engine).values()
    assert isinstance(answer, Completion), answer
    return answer


def refused(engine: ForeignEngine, **sampling: Any) -> Refused:
    submit(engine, request(**sampling))
    (answer,) = answers(engine).values()
    assert isinstance(answer, Refused), answer
    return answer
