"""What rank 0 tells the others to do with it. Between two orders they wait."""

import msgspec

from trieline.learner.config import LearnerConfig
from trieline.learner.objective_config import ObjectiveConfig


class Setup(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Load the model. The first order."""

    config: LearnerConfig
    model: str
    """As `model.path`."""
    dtype: str
    """To compute in."""
    seed: int


class Step(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Make one step on the trees that come with it."""

    objective: ObjectiveConfig
    lr: float | None
    expect_agreement: bool


class Recompute(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Log-probabilities of the trees that come with it."""


class Publish(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Gather the weights in the compute dtype, one after the other."""


class Save(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Gather the masters, one after the other; then write the own shards of the rest."""


class Restore(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Go on from a checkpoint."""

    checkpoint: str
    """Its folder, which all ranks see."""


class Forget(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Drop the moments of the optimizer."""


class End(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """It is over."""


Order = Setup | Step | Recompute | Publish | Save | Restore | Forget | End
