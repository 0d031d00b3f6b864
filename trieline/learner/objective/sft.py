"""Supervised fine-tuning on the sampled tokens of demonstrations: loss_t = - log pi(a_t)."""

from trieline.learner.objective.policy_loss import TokenColumns, TokenLosses
from trieline.learner.objective_config import ObjectiveConfig


def sft(columns: TokenColumns, config: ObjectiveConfig) -> TokenLosses:
    """Negative log-likelihood; advantages and behaviour log-probabilities are not read."""
    del config
    return TokenLosses(losses=-columns.logprobs)
