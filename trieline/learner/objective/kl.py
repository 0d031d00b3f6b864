"""Per-token estimators of KL(pi || reference) (J. Schulman, "Approximating KL divergence", 2020).

With d = log pi(a) - log ref(a):   k1 = d,   k2 = d^2 / 2,   k3 = exp(-d) - 1 + d.

The ratio in k3 counts up to MAX_RATIO, as everywhere; beyond it the estimate goes on along its tangent, so
that the penalty still pulls back what has gone that far.

As a loss, d alone has no expected gradient (its gradient is that of log pi, whose mean is zero), so that `k1`
has the value of k1 and the gradient d * grad log pi of the penalty it stands for.
"""

from typing import Literal

from torch import Tensor

from trieline.learner.objective_config import MAX_LOG_RATIO, MAX_RATIO


def kl_penalty(logprobs: Tensor, reference: Tensor, estimator: Literal["k1", "k2", "k3"]) -> Tensor:
    """[M] estimates, from log-probabilities [M] of the sampled tokens under both policies."""
    d = logprobs - reference
    if estimator == "k1":
        gradient_of_k2 = d.detach() * logprobs
        return d.detach() + gradient_of_k2 - gradient_of_k2.detach()
    if estimator == "k2":
        return d.square() / 2
    bounded = d.clamp(min=-MAX_LOG_RATIO)
    return (-bounded).expm1() + bounded + (1 - MAX_RATIO) * (d - bounded)
