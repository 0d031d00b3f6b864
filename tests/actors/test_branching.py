import asyncio
import math
from typing import Any

import numpy as np
import pytest

from tests.actors.scripted_policy import completion
from trieline.actors.branching import ForkPoints
from trieline.actors.errors import ActorError
from trieline.actors.rollout import Origin


def test_turns_of_unknown_entropy_have_no_rank() -> None:
    points = ForkPoints("test/Some-v0", ranking="entropy", branches=1, seed=0, unforkable=set())
    unknown = completion(np.array([1, 2], np.int32), entropy=math.nan)
    untouched: Any = None
    with pytest.raises(ActorError, match=r"test/Some-v0: .*branching = 'entropy', got unknown"):
        asyncio.run(points.offer(Origin(rollout=0, turn=1), unknown, untouched))
