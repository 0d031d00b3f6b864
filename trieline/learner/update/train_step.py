"""One gradient: forward and backward over the packs of a batch, and the metrics of the step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor

from trieline.common.arrays import Float32, Int64
from trieline.common.tally import Tally
from trieline.kernels.row_masks import RowMasks
from trieline.learner.batch.batch import Batch
from trieline.learner.batch.masks import MaskTable
from trieline.learner.batch.pack import Pack, Predicted, predicted_tokens
from trieline.learner.batch.pack_parts import PackPart, divide_pack
from trieline.learner.batch.packing import pack_groups
from trieline.learner.batch.segments import Segment, cut_segments
from trieline.learner.batch.sequences import tree_sequences
from trieline.learner.batch.trie import Trie, build_trie
from trieline.learner.errors import ObjectiveError
from trieline.learner.model.adapters import switched_off
from trieline.learner.model.depth_first import backward_depth_first, forward_depth_first
from trieline.learner.model.tree_forward import TreeModel
from trieline.learner.objective.pack_loss import PackOutputs, pack_loss
from trieline.learner.objective.parted_vtrace import PartedVTrace, PartTargets, WholeVTrace
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.update.step_metrics import StepMetrics
from trieline.wire.tree import TrajectoryTree

DEFAULT_PROBE_TOKENS = 16_384
"""Trie tokens of a forward pass without gradients, if the caller doesn't say."""


def accumulate_gradients(
    model: TreeModel,
    batch: Batch,
    config: ObjectiveConfig,
    *,
    policy_version: int,
    reference: TreeModel | None = None,
) -> Tally:
    """Add the gradient of the batch's loss to `.grad` of the model's parameters; return the step's metrics.

    `.grad` of parameters below float32 is float32. `policy_version` is that of the model's weights: where a
    sequence was sampled by these very weights, recorded and recomputed log-probabilities must agree, and
    `mismatch_kl/*` says how well. A batch without packs leaves the gradients alone.
    `reference` may be `model` where that has adapters: without them, it is what it began as.
    """
    _expect_parts(model, config, reference)
    metrics = StepMetrics(config, policy_version)
    for pack in batch.packs:
        if pack.trie.num_tokens > batch.max_tokens:
            _train_depth_first(model, pack, config, batch.max_tokens, reference, metrics)
            continue
        outputs = forward_pack(model, pack, config, reference=reference)
        result = pack_loss(pack, outputs, config)
        result.loss.backward()  # type: ignore[no-untyped-call]
        metrics.add_pack(pack, outputs, result)
    tally = Tally()
    tally.add(batch.metrics)
    tally.add(metrics.tally)
    return tally


def forward_pack(
    model: TreeModel, pack: Pack, config: ObjectiveConfig, *, reference: TreeModel | None = None
) -> PackOutputs:
    """Run the model on one pack, and the reference model without gradients."""
    reference_logprobs = None
    if reference is not None:
        with _as_reference(model, reference):
            reference_logprobs, _ = _targets(reference, reference.hidden_states(pack.trie), pack, config)
    return _outputs(model, model.hidden_states(pack.trie), pack, config, reference_logprobs)


def _train_depth_first(
    model: TreeModel,
    pack: Pack,
    config: ObjectiveConfig,
    max_tokens: int,
    reference: TreeModel | None,
    metrics: StepMetrics,
) -> None:
    """Gradient and metrics of a pack beyond the budget: the same as those of one pass over it."""
    segments = cut_segments(pack.trie, max_tokens=max_tokens)
    parts = divide_pack(pack, segments)
    expected: list[Tensor | None] = [None] * len(parts)
    if reference is not None:
        with _as_reference(model, reference):
            for i, hidden in enumerate(forward_depth_first(reference, pack.trie, segments)):
                expected[i], _ = _targets(reference, hidden, parts[i].pack, config)
    vtrace: PartTargets | None = None
    if config.needs_value_head and pack.traces[0].episodes.on_tree:
        vtrace = _whole_vtrace(model, pack, segments, parts, config)
    elif config.needs_value_head:
        vtrace = PartedVTrace(pack, config)

    def loss(index: int, hidden: Tensor) -> Tensor | None:
        part = parts[index]
        if vtrace is None and len(part.columns) == 0:
            return None
        outputs = _outputs(model, hidden, part.pack, config, expected[index])
        targets = None if vtrace is None else vtrace.take(segments[index], part, outputs)
        if len(part.columns) == 0:
            return None
        result = pack_loss(part.pack, outputs, config, targets=targets)
        metrics.add_pack(part.pack, outputs, result)
        return result.loss

    backward_depth_first(model, pack.trie, segments, loss)


@contextmanager
def _as_reference(model: TreeModel, reference: TreeModel) -> Iterator[None]:
    off = switched_off(model.hf_model) if reference is model else nullcontext()
    with torch.no_grad(), off:
        yield


@torch.no_grad()
def _whole_vtrace(
    model: TreeModel, pack: Pack, segments: list[Segment], parts: list[PackPart], config: ObjectiveConfig
) -> WholeVTrace:
    """V-trace where edges lead from one part to another, after a forward for it alone."""
    values, logprobs = np.zeros(pack.trie.num_tokens), np.zeros(len(pack.target_ids))
    hidden_states = forward_depth_first(model, pack.trie, segments)
    for segment, part, hidden in zip(segments, parts, hidden_states, strict=True):
        outputs = _outputs(model, hidden, part.pack, config, None)
        assert outputs.values is not None
        values[segment.tokens] = outputs.values.double().numpy()
        logprobs[part.targets] = outputs.logprobs.double().numpy()
    return WholeVTrace(pack, values, logprobs, config)


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
    table = MaskTable()
    sequences = [
        tree_sequences(tree, tree_index=i, leaves=range(tree.num_leaves), masks=table)
        for i, tree in enumerate(trees)
    ]
    sizes = [build_trie([s.keys for s in group]).num_tokens for group in sequences]
    prompts = [group[0].keys for group in sequences]
    for members in pack_groups(sizes, prompts, max_tokens=max_tokens):
        together = [s for g in members for s in sequences[g]]
        trie = build_trie([s.keys for s in together])
        predicted = predicted_tokens(trie, together)
        logprobs, _ = model.logprobs(
            _hidden_rows(model, trie, predicted.rows, max_tokens),
            torch.from_numpy(predicted.target_rows),
            torch.from_numpy(trie.token_ids[predicted.tokens].astype(np.int64)),
            temperature=temperature,
            masks=_row_masks(predicted),
        )
        by_token = np.zeros(trie.num_tokens, np.float32)
        by_token[predicted.tokens] = logprobs.float().cpu().numpy()
        for path, s in zip(trie.paths, together, strict=True):
            index = trees[s.tree].sequence_index(s.leaf)[s.trained]
            results[s.tree][index] = by_token[path[s.trained]]
    return results


def _hidden_rows(model: TreeModel, trie: Trie, rows: Int64, max_tokens: int) -> Tensor:
    """Hidden states of some tokens, however large the trie, without gradients."""
    if trie.num_tokens <= max_tokens:
        return model.hidden_states(trie)[torch.from_numpy(rows)]
    segments = cut_segments(trie, max_tokens=max_tokens)
    found: Tensor | None = None
    for segment, hidden in zip(segments, forward_depth_first(model, trie, segments), strict=True):
        wanted = np.isin(rows, segment.tokens)
        places = np.searchsorted(segment.tokens, rows[wanted])
        found = hidden.new_empty(len(rows), hidden.shape[1]) if found is None else found
        found[torch.from_numpy(wanted)] = hidden[torch.from_numpy(places)]
    assert found is not None
    return found


def _outputs(
    model: TreeModel, hidden: Tensor, pack: Pack, config: ObjectiveConfig, reference_logprobs: Tensor | None
) -> PackOutputs:
    logprobs, entropies = _targets(model, hidden, pack, config)
    values = None
    if config.needs_value_head and model.value_head is not None:
        values = model.value_head(hidden).cpu()
    return PackOutputs(
        logprobs=logprobs, entropies=entropies, values=values, reference_logprobs=reference_logprobs
    )


def _targets(model: TreeModel, hidden: Tensor, pack: Pack, config: ObjectiveConfig) -> tuple[Tensor, Tensor]:
    rows = hidden[torch.from_numpy(pack.rows).to(hidden.device)]
    target_rows, target_ids = torch.from_numpy(pack.target_rows), torch.from_numpy(pack.target_ids)
    logprobs, entropies = model.logprobs(
        rows, target_rows, target_ids, temperature=config.temperature, masks=_row_masks(pack)
    )
    return logprobs.cpu(), entropies.cpu()


def _row_masks(of: Pack | Predicted) -> RowMasks | None:
    return None if of.masks is None else RowMasks(index=of.row_masks, runs=of.masks.runs)


def _expect_parts(model: TreeModel, config: ObjectiveConfig, reference: TreeModel | None) -> None:
    if config.needs_value_head and model.value_head is None:
        msg = "advantage = 'vtrace' needs a model with a value head, got one without"
        raise ObjectiveError(msg)
    if (config.kl_coef > 0) != (reference is not None):
        given = "none" if reference is None else reference.name
        msg = f"expected a reference model iff kl_coef > 0, got kl_coef = {config.kl_coef} and {given}"
        raise ObjectiveError(msg)
