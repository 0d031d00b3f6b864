"""What every policy loss takes and gives."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from trieline.learner.objective_config import MAX_LOG_RATIO, ObjectiveConfig


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenColumns:
    """M sampled tokens of all sequences of a pack, a shared token once for each sequence."""

    logprobs: Tensor
    """[M] under the current policy, with gradient."""
    behavior_logprobs: Tensor
    """[M] recorded."""
    advantages: Tensor
    """[M] scaled, without gradient."""

    def ratios(self) -> Tensor:
        """[M] pi/mu, at most MAX_RATIO, with gradient below it."""
        return (self.logprobs - self.behavior_logprobs).clamp(max=MAX_LOG_RATIO).exp()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenLosses:
    """Losses [M] to be minimised, and what a metric is the mean of, by its name."""

    losses: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


PolicyLoss = Callable[[TokenColumns, ObjectiveConfig], TokenLosses]
