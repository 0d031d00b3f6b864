"""The loss of one pack, on flat columns of its sampled tokens.

Log-probabilities l, entropies H and values V come from one forward over the trie; `column_targets` gathers
them along the sequences, and the backward of that gather adds up the branches:

    dLoss/dl[i] = sum over the columns m of token i of dLoss_m/dl_m

So everything below is written on sequences and knows nothing of the trie. With w_m the weights of the batch's
normalisation, s_m the entropy-aware scale, A_m the advantage:

    loss = sum_m w_m [ policy_loss_m(s_m A_m) + value_coef (V_m - vs_m)^2 / 2
                       - entropy_coef H_m + kl_coef KL_m ]
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trieline.common.arrays import Float64, Int64
from trieline.learner.batch.pack import GroupTrace, Pack
from trieline.learner.batch.vtrace import VTraceSweep
from trieline.learner.objective.importance import icepop, pg, tis
from trieline.learner.objective.kl import kl_penalty
from trieline.learner.objective.policy_loss import PolicyLoss, TokenColumns
from trieline.learner.objective.ppo_clip import ppo_clip
from trieline.learner.objective.sft import sft
from trieline.learner.objective.vtrace_pg import vtrace_pg
from trieline.learner.objective_config import ObjectiveConfig

POLICY_LOSSES: dict[str, PolicyLoss] = {
    "vtrace_pg": vtrace_pg,
    "ppo_clip": ppo_clip,
    "tis": tis,
    "icepop": icepop,
    "pg": pg,
    "sft": sft,
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackOutputs:
    """What the model says of a pack, with gradients: on the CPU, wherever the model is."""

    logprobs: Tensor
    """[U] of the different sampled tokens."""
    entropies: Tensor
    """[R] of the distributions they were sampled from."""
    values: Tensor | None
    """[N] of every trie token as a state; None without a value head."""
    reference_logprobs: Tensor | None
    """[U] under the reference model, without gradient; None if there is none."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ValueTargets:
    """What V-trace makes of values and log-probabilities, without gradient."""

    vs: Tensor
    """[M] float64, target of the value of the state in which each column's token was sampled."""
    pg_advantages: Tensor
    """[M] float64"""
    rho_clipped: Tensor
    """[M] bool"""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackLoss:
    """The pack's share of the batch's loss, and its metrics."""

    loss: Tensor
    terms: dict[str, float]
    """Shares of the terms, `loss/*`; they add up over packs."""
    columns: dict[str, Tensor]
    """[M] each, by the name of the metric that is their mean over all columns of the batch."""


def pack_loss(
    pack: Pack, outputs: PackOutputs, config: ObjectiveConfig, *, targets: ValueTargets | None = None
) -> PackLoss:
    """The formula of this module. `targets`: if the pack is a part whose V-trace was computed with others."""
    dtype = outputs.logprobs.dtype
    weights = _tensor(pack.weights, dtype)
    targets_of_columns = torch.from_numpy(pack.column_targets)
    logprobs = outputs.logprobs[targets_of_columns]
    entropies = outputs.entropies[torch.from_numpy(pack.target_rows[pack.column_targets])]
    columns: dict[str, Tensor] = {"entropy/mean": entropies.detach()}

    advantages = torch.from_numpy(pack.advantages)
    terms = {}
    if config.needs_value_head:
        assert outputs.values is not None, "the objective needs a model with a value head"
        if targets is None:
            targets = value_targets(pack, _float64(outputs.values), _float64(outputs.logprobs), config)
        advantages = targets.pg_advantages
        values = outputs.values[_states(pack)]
        errors = values - targets.vs.to(values.dtype)
        terms["loss/value"] = config.value_coef * (weights.to(values.dtype) * errors.square() / 2).sum()
        columns["vtrace/rho_clipped_fraction"] = targets.rho_clipped
        columns["value/mean"] = values.detach()
        columns["value/squared_error"] = errors.detach().square()
    advantages = (advantages * torch.from_numpy(pack.scales)).to(dtype)
    policy = POLICY_LOSSES[config.loss](
        TokenColumns(
            logprobs=logprobs,
            behavior_logprobs=_tensor(pack.behavior_logprobs, dtype),
            advantages=advantages,
        ),
        config,
    )
    terms["loss/policy"] = (weights * policy.losses).sum()
    columns |= policy.metrics
    if config.loss != "sft":
        columns["advantage/mean"] = advantages
        columns["advantage/mean_abs"] = advantages.abs()
    if config.entropy_coef > 0:
        terms["loss/entropy"] = -config.entropy_coef * (weights * entropies).sum()
    if config.kl_coef > 0:
        assert outputs.reference_logprobs is not None, "kl_coef > 0 needs a reference model"
        reference = outputs.reference_logprobs.to(dtype)[targets_of_columns]
        kl = kl_penalty(logprobs, reference, config.kl_estimator)
        terms["loss/kl"] = config.kl_coef * (weights * kl).sum()
        columns["kl/mean"] = kl.detach()
    loss = torch.stack([term.to(dtype) for term in terms.values()]).sum()
    shares = {name: float(term.detach()) for name, term in terms.items()}
    return PackLoss(loss=loss, terms=shares | {"loss/total": float(loss.detach())}, columns=columns)


def start_vtrace(trace: GroupTrace, config: ObjectiveConfig) -> VTraceSweep:
    """The recursion over a group, as the objective has it."""
    return VTraceSweep(
        trace.episodes, gamma=config.gamma, lam=config.lam, rho_bar=config.rho_bar, c_bar=config.c_bar
    )


def column_targets(sweep: VTraceSweep, trace: GroupTrace, columns: Int64) -> ValueTargets:
    """Targets of some of the columns of a group, whose states the recursion has passed."""
    tokens = trace.column_tokens[columns]
    states = trace.episodes.predecessor[tokens]
    return ValueTargets(
        vs=torch.from_numpy(sweep.vs(states)),
        pg_advantages=torch.from_numpy(sweep.pg_advantages(trace.column_endings[columns], tokens)),
        rho_clipped=torch.from_numpy(sweep.rho_clipped(tokens)),
    )


def _tensor(values: Float64, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(values).to(dtype)


def _states(pack: Pack) -> Tensor:
    """[M] the trie token that ends the state in which each column's token was sampled."""
    return torch.from_numpy(pack.rows[pack.target_rows[pack.column_targets]])


def value_targets(
    pack: Pack, values: Float64, target_logprobs: Float64, config: ObjectiveConfig
) -> ValueTargets:
    """V-trace of a whole pack, from the values [N] of its trie and log-probabilities [U] of its targets."""
    logprobs = np.zeros(pack.trie.num_tokens)
    logprobs[pack.target_tokens] = target_logprobs
    # A pack without groups has no targets.
    none = torch.zeros(0, dtype=torch.float64)
    parts = [ValueTargets(vs=none, pg_advantages=none, rho_clipped=none.bool())]
    for trace in pack.traces:
        sweep = start_vtrace(trace, config)
        followers = np.flatnonzero(trace.episodes.predecessor >= 0)
        states = np.arange(len(trace.tokens))
        sweep.take(states, values[trace.tokens], followers, logprobs[trace.tokens[followers]])
        parts.append(column_targets(sweep, trace, np.arange(len(trace.column_tokens))))
    return ValueTargets(
        vs=torch.cat([p.vs for p in parts]),
        pg_advantages=torch.cat([p.pg_advantages for p in parts]),
        rho_clipped=torch.cat([p.rho_clipped for p in parts]),
    )


def _float64(tensor: Tensor) -> Float64:
    found: Float64 = tensor.detach().double().numpy()
    return found
