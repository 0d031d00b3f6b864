"""The number types of settings and messages: msgspec refuses what is outside their range."""

from typing import Annotated

import msgspec

Positive = Annotated[int, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
PositiveFloat = Annotated[float, msgspec.Meta(gt=0)]

REWARD_ROUNDING = 1e-6
"""Sums of rewards that differ by less, relative to the rewards in them, are the same: rewards travel in
float32 (6e-8 each), and environments add up their own (0.1 + 0.2 is not 0.3)."""

MAX_TASKS = 100_000
"""Of one split of an environment that lists them: so many names are read, sorted and kept with ease."""
MAX_TASK_ID = 200
"""Characters of a listed task's name; a little less than an assignment has room for."""

MAX_REWARD = 1e6
"""Beyond it float32, in which rewards travel, does not tell apart two returns that differ by a twentieth."""
