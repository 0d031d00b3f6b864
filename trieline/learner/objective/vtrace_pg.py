"""IMPALA's policy gradient (arXiv 1802.01561, section 4.2).

    loss_t = - min(rho_pg_bar, pi/mu) * A_t * log pi(a_t)

The weight is detached. With advantage `vtrace`, A_t = r_t + gamma vs_{t+1} - V(s_t).
"""

from trieline.learner.objective.policy_loss import TokenColumns, TokenLosses
from trieline.learner.objective_config import ObjectiveConfig


def vtrace_pg(columns: TokenColumns, config: ObjectiveConfig) -> TokenLosses:
    """Truncated importance weight times advantage times log-likelihood."""
    ratios = columns.ratios().detach()
    rhos = ratios.clamp(max=config.rho_pg_bar)
    return TokenLosses(
        losses=-rhos * columns.advantages * columns.logprobs,
        metrics={"vtrace/rho_pg_clipped_fraction": ratios > config.rho_pg_bar},
    )
