"""Per-token estimators of KL(pi || reference) (J. Schulman, "Approximating KL divergence", 2020).

With d = log pi(a) - log ref(a):   k1 = d,   k2 = d^2 / 2,   k3 = exp(-d) - 1 + d.

As a loss, d alone has no expected gradient (its gradient is that of log pi, whose mean is zero), so that `k1`
has the value of k1 and the gradient d * grad log pi of the penalty it stands for.
"""

from typing import Literal

from torch import Tensor


def kl_penalty(logprobs: Tensor, reference: Tensor, estimator: Literal["k1", "k2", "k3"]) -> Tensor:
    """[M] estimates, from log-probabilities [M] of the sampled tokens under both policies."""
    d = logprobs - reference
    if estimator == "k1":
        gradient_of_k2 = d.detach() * logprobs
        return d.detach() + gradient_of_k2 - gradient_of_k2.detach()
    if estimator == "k2":
        return d.square() / 2
    return (-d).expm1() + d
