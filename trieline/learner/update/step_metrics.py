"""The figures of one gradient step that only the columns of its packs can tell."""

import numpy as np
import torch
from torch import Tensor

from trieline.learner.batch.pack import Pack
from trieline.learner.objective.pack_loss import PackLoss, PackOutputs
from trieline.learner.objective_config import MAX_LOG_RATIO, ObjectiveConfig


class ColumnMetrics:
    """Means and maxima over the columns of all packs."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._maxima: dict[str, float] = {}

    def add(self, name: str, values: Tensor) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + float(values.sum(dtype=torch.float64))
        self._counts[name] = self._counts.get(name, 0) + values.numel()

    def add_maximum(self, name: str, values: Tensor) -> None:
        if values.numel():
            self._maxima[name] = max(self._maxima.get(name, -np.inf), float(values.max()))

    def result(self) -> dict[str, float]:
        """Names of which no column came are left out."""
        means = {name: self._sums[name] / count for name, count in self._counts.items() if count}
        return means | self._maxima


class StepMetrics:
    """Terms of the loss, and metrics of columns and of the mismatch, over all packs or parts of packs."""

    def __init__(self, config: ObjectiveConfig, policy_version: int) -> None:
        self._config = config
        self._policy_version = policy_version
        self._columns = ColumnMetrics()
        self._terms: dict[str, float] = {}

    def add_pack(self, pack: Pack, outputs: PackOutputs, result: PackLoss) -> None:
        for name, share in result.terms.items():
            self._terms[name] = self._terms.get(name, 0.0) + share
        for name, column in result.columns.items():
            self._columns.add(name, column)
        if self._config.loss != "sft":
            _add_mismatch(self._columns, pack, outputs, self._policy_version)

    def result(self) -> dict[str, float]:
        return self._terms | self._columns.result()


def _add_mismatch(metrics: ColumnMetrics, pack: Pack, outputs: PackOutputs, policy_version: int) -> None:
    """KL(behaviour || recomputed) on tokens whose whole past was sampled by these weights.

    With d = recomputed - recorded log-probability, the estimator is k3 = exp(d) - 1 - d: never negative, and
    of low variance where the two agree. One token counts for no more than one whose ratio is MAX_RATIO.
    """
    of_these_weights = (pack.oldest_version == policy_version) & (pack.newest_version == policy_version)
    fresh = torch.from_numpy(of_these_weights)
    recomputed = outputs.logprobs.detach().cpu().double()[torch.from_numpy(pack.column_targets)]
    d = recomputed - torch.from_numpy(pack.behavior_logprobs)
    metrics.add("mismatch_kl/fresh_fraction", fresh.double())
    d = d[fresh]
    bounded = d.clamp(max=MAX_LOG_RATIO)
    k3 = bounded.expm1() - bounded
    metrics.add("mismatch_kl/mean", k3)
    metrics.add_maximum("mismatch_kl/max", k3)
    metrics.add("mismatch_kl/logprob_mean_abs", d.abs())
    metrics.add_maximum("mismatch_kl/logprob_max_abs", d.abs())
