"""One gradient over several ranks: each computes its packs, and the sum is what one process would compute."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from trieline.common.tally import Tally
from trieline.learner.batch.batch import Batch
from trieline.learner.batch.pack import Pack, empty_pack
from trieline.learner.batch.spreading import in_rounds
from trieline.learner.model.sharding import gathered
from trieline.learner.model.tree_forward import TreeModel
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.update.train_step import accumulate_gradients


def accumulate_share(
    model: TreeModel,
    batch: Batch,
    config: ObjectiveConfig,
    *,
    rank: int,
    gather: Literal["layer", "step"],
    pair_cost: float,
    policy_version: int,
    reference: TreeModel | None = None,
) -> Tally:
    """As `accumulate_gradients`, by all ranks together, of models that are sharded over them.

    `batch` is the same on all ranks, and so are its metrics: rank 0 alone counts them. Returns the metrics of
    this rank, which add up over the ranks. For a batch with a trie beyond `max_tokens`, which runs
    depth-first and so in passes of its own, the weights are gathered once whatever `gather` says.

    Raises:
        ModelRefusedError: there is such a trie, and the model can't; on all ranks alike.
    """

    def accumulate(packs: Iterable[Pack], *, counted: bool = False) -> Tally:
        part = replace(batch, packs=tuple(packs), metrics=batch.metrics if counted else Tally())
        return accumulate_gradients(model, part, config, policy_version=policy_version, reference=reference)

    if not batch.packs:
        return accumulate([], counted=rank == 0)
    own = [batch.packs[i] for i in batch.shares[rank]]
    too_large = any(pack.trie.num_tokens > batch.max_tokens for pack in batch.packs)
    if too_large:
        # On all ranks: the others would wait for one that met it alone.
        model.expect_depth_first()
    if gather == "layer" and not too_large:
        costs = [[_cost(batch.packs[i], pair_cost) for i in share] for share in batch.shares]
        order = in_rounds(costs)[rank]
        return accumulate((empty_pack() if i is None else own[i] for i in order), counted=rank == 0)
    with gathered(model, reference) as sum_up:
        tally = accumulate(own, counted=rank == 0)
        sum_up()
        tally.add(accumulate([empty_pack()]))
    return tally


def _cost(pack: Pack, pair_cost: float) -> float:
    return pack.trie.num_tokens + pair_cost * pack.trie.num_visible_pairs
