"""One gradient: forward and backward over the packs of a batch, and the metrics of the step."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trieline.actors.wire.tree import Float32, TrajectoryTree
from trieline.learner.batch import Batch, Pack
from trieline.learner.errors import ObjectiveError
from trieline.learner.objective import PackOutputs, pack_loss
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.packing import pack_groups
from trieline.learner.sequences import tree_sequences
from trieline.learner.tree_forward import TreeModel
from trieline.learner.trie import build_trie

DEFAULT_PROBE_TOKENS = 16_384
"""Trie tokens of a forward pass without gradients, if the caller doesn't say."""


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


def accumulate_gradients(
    model: TreeModel,
    batch: Batch,
    config: ObjectiveConfig,
    *,
    policy_version: int,
    reference: TreeModel | None = None,
) -> dict[str, float]:
    """Add the gradient of the batch's loss to `.grad` of the model's parameters; return the step's metrics.

    `.grad` of parameters below float32 is float32. `policy_version` is that of the model's weights: where a
    sequence was sampled by these very weights, recorded and recomputed log-probabilities must agree, and
    `mismatch_kl/*` says how well. A batch without packs leaves the gradients alone.
    """
    _expect_parts(model, config, reference)
    metrics, terms = ColumnMetrics(), dict[str, float]()
    for pack in batch.packs:
        outputs = forward_pack(model, pack, config, reference=reference)
        result = pack_loss(pack, outputs, config)
        result.loss.backward()  # type: ignore[no-untyped-call]
        for name, share in result.terms.items():
            terms[name] = terms.get(name, 0.0) + share
        for name, column in result.columns.items():
            metrics.add(name, column)
        if config.loss != "sft":
            _add_mismatch(metrics, pack, outputs, policy_version)
    return batch.metrics | terms | metrics.result()


def forward_pack(
    model: TreeModel, pack: Pack, config: ObjectiveConfig, *, reference: TreeModel | None = None
) -> PackOutputs:
    """Run the model on one pack, and the reference model without gradients."""
    hidden = model.hidden_states(pack.trie)
    logprobs, entropies = _targets(model, hidden, pack, config)
    reference_logprobs = None
    if reference is not None and config.kl_coef > 0:
        with torch.no_grad():
            reference_logprobs, _ = _targets(reference, reference.hidden_states(pack.trie), pack, config)
    values = None
    if config.needs_value_head and model.value_head is not None:
        values = model.value_head(hidden)
    return PackOutputs(
        logprobs=logprobs, entropies=entropies, values=values, reference_logprobs=reference_logprobs
    )


@torch.no_grad()
def recompute_logprobs(
    model: TreeModel,
    trees: Sequence[TrajectoryTree],
    *,
    temperature: float = 1.0,
    max_tokens: int = DEFAULT_PROBE_TOKENS,
) -> list[Float32]:
    """Log-probabilities of the sampled tokens of all leaves, scored or not.

    Returns float32[T] for each tree, aligned to its tokens; 0 on context.
    """
    results: list[Float32] = [np.zeros(tree.num_tokens, np.float32) for tree in trees]
    sequences = [tree_sequences(t, tree_index=i, leaves=range(t.num_leaves)) for i, t in enumerate(trees)]
    sizes = [build_trie([s.token_ids for s in group]).num_tokens for group in sequences]
    prompts = [group[0].token_ids for group in sequences]
    for members in pack_groups(sizes, prompts, max_tokens=max_tokens):
        together = [s for g in members for s in sequences[g]]
        trie = build_trie([s.token_ids for s in together])
        tokens = np.unique(np.concatenate([p[s.trained] for p, s in zip(trie.paths, together, strict=True)]))
        rows, target_rows = np.unique(trie.predecessor[tokens], return_inverse=True)
        hidden = model.hidden_states(trie)[torch.from_numpy(rows.astype(np.int64))]
        targets = torch.from_numpy(trie.token_ids[tokens].astype(np.int64))
        logprobs, _ = model.logprobs(hidden, torch.from_numpy(target_rows), targets, temperature=temperature)
        by_token = np.zeros(trie.num_tokens, np.float32)
        by_token[tokens] = logprobs.float().cpu().numpy()
        for path, s in zip(trie.paths, together, strict=True):
            index = trees[s.tree].sequence_index(s.leaf)[s.trained]
            results[s.tree][index] = by_token[path[s.trained]]
    return results


def _targets(model: TreeModel, hidden: Tensor, pack: Pack, config: ObjectiveConfig) -> tuple[Tensor, Tensor]:
    rows = hidden[pack.rows.to(hidden.device)]
    return model.logprobs(rows, pack.target_rows, pack.target_ids, temperature=config.temperature)


def _expect_parts(model: TreeModel, config: ObjectiveConfig, reference: TreeModel | None) -> None:
    if config.needs_value_head and model.value_head is None:
        msg = "advantage = 'vtrace' needs a model with a value head, got one without"
        raise ObjectiveError(msg)
    if (config.kl_coef > 0) != (reference is not None):
        given = "none" if reference is None else reference.name
        msg = f"expected a reference model iff kl_coef > 0, got kl_coef = {config.kl_coef} and {given}"
        raise ObjectiveError(msg)


def _add_mismatch(metrics: ColumnMetrics, pack: Pack, outputs: PackOutputs, policy_version: int) -> None:
    """KL(behaviour || recomputed) on tokens whose whole past was sampled by these weights.

    With d = recomputed - recorded log-probability, the estimator is k3 = exp(d) - 1 - d: never negative, and
    of low variance where the two agree.
    """
    fresh = (pack.oldest_version == policy_version) & (pack.newest_version == policy_version)
    d = outputs.logprobs.detach().cpu().double()[pack.column_targets] - pack.behavior_logprobs
    metrics.add("mismatch_kl/fresh_fraction", fresh.double())
    d = d[fresh]
    k3 = d.expm1() - d
    metrics.add("mismatch_kl/mean", k3)
    metrics.add_maximum("mismatch_kl/max", k3)
    metrics.add("mismatch_kl/logprob_mean_abs", d.abs())
    metrics.add_maximum("mismatch_kl/logprob_max_abs", d.abs())
