"""The figures of one gradient step that only the columns of its packs can tell."""

import torch
from torch import Tensor

from trieline.common.tally import Tally
from trieline.learner.batch.pack import Pack
from trieline.learner.objective.pack_loss import PackLoss, PackOutputs
from trieline.learner.objective_config import MAX_LOG_RATIO, ObjectiveConfig


class StepMetrics:
    """Terms of the loss, and figures of columns and of the mismatch, over all packs or parts of packs."""

    def __init__(self, config: ObjectiveConfig, policy_version: int) -> None:
        self._config = config
        self._policy_version = policy_version
        self.tally = Tally()

    def add_pack(self, pack: Pack, outputs: PackOutputs, result: PackLoss) -> None:
        for name, share in result.terms.items():
            self.tally.add_total(name, share)
        for name, column in result.columns.items():
            _add_mean(self.tally, name, column)
        if self._config.loss != "sft":
            _add_mismatch(self.tally, pack, outputs, self._policy_version)


def add_disagreement(tally: Tally, prefix: str, recomputed: Tensor, recorded: Tensor) -> None:
    """KL(behaviour || recomputed) of tokens that one policy sampled and the other scored, in float64.

    With d = recomputed - recorded log-probability, the estimator is k3 = exp(d) - 1 - d: never negative, and
    of low variance where the two agree. One token counts for no more than one whose ratio is MAX_RATIO.
    """
    d = recomputed.double() - recorded.double()
    bounded = d.clamp(max=MAX_LOG_RATIO)
    k3 = bounded.expm1() - bounded
    for name, values in (("{}", k3), ("logprob_{}_abs", d.abs())):
        _add_mean(tally, f"{prefix}/{name.format('mean')}", values)
        if values.numel():
            tally.add_maximum(f"{prefix}/{name.format('max')}", float(values.max()))


def _add_mean(tally: Tally, name: str, values: Tensor) -> None:
    tally.add_mean(name, float(values.sum(dtype=torch.float64)), values.numel())


def _add_mismatch(tally: Tally, pack: Pack, outputs: PackOutputs, policy_version: int) -> None:
    """Of the tokens whose whole past was sampled by these weights; and of all, as `off_policy/kl/*`."""
    of_these_weights = (pack.oldest_version == policy_version) & (pack.newest_version == policy_version)
    fresh = torch.from_numpy(of_these_weights)
    _add_mean(tally, "mismatch_kl/fresh_fraction", fresh)
    recomputed = outputs.logprobs.detach()[torch.from_numpy(pack.column_targets)]
    recorded = torch.from_numpy(pack.behavior_logprobs)
    add_disagreement(tally, "mismatch_kl", recomputed[fresh], recorded[fresh])
    add_disagreement(tally, "off_policy/kl", recomputed, recorded)
