"""The learner over several ranks: rank 0 tells the others what it is about to do, and all do it.

Each rank has a `RankedLearner` and goes through the same lines: whatever decides how a step goes on (a loss
that is not finite, servers that compute something else) is decided by figures that are the same on all.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import torch

from trieline.common.arrays import Float32
from trieline.common.tally import Tally
from trieline.learner.batch.batch import Batch, prepare_batch
from trieline.learner.config import LearnerConfig
from trieline.learner.errors import LearnerError, TrainingError
from trieline.learner.model.compute_device import choose_device
from trieline.learner.model.compute_dtype import NAMED_DTYPES
from trieline.learner.model.flops import pair_cost
from trieline.learner.model.sharding import release, shard_model
from trieline.learner.model.tree_forward import TreeModel, load_tree_model
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.ranks.group import Ranks
from trieline.learner.ranks.orders import Forget, Order, Recompute, Setup, Step
from trieline.learner.ranks.start import Crew
from trieline.learner.update.learner import Learner, StepReport
from trieline.learner.update.sharded_optimizer import ShardedOptimizer
from trieline.learner.update.shared_gradient import accumulate_share
from trieline.wire.tree import TrajectoryTree


class RankedLearner(Learner):
    """The part of the learner that one rank has. Only rank 0 is called from outside."""

    ranks: Ranks

    def __init__(
        self, config: LearnerConfig, model_folder: Path, *, dtype: torch.dtype, ranks: Ranks
    ) -> None:
        """As `Learner`, by all ranks at the same time."""
        self.ranks = ranks
        self._end_crew: Callable[..., None] = ranks.close
        self._mesh = ranks.mesh(choose_device(config.device))
        # Ranks of one machine would make way for each other.
        config = msgspec.structs.replace(config, give_way=False, ranks=ranks.size)
        # torchrun may have started more than the config knows of.
        config.validate()
        super().__init__(config, model_folder, dtype=dtype, make_optimizer=ShardedOptimizer)
        self._peak_flops *= ranks.size
        self._pair_cost = pair_cost(self.model)

    @classmethod
    def of_crew(cls, crew: Crew, setup: Setup, model_folder: Path) -> "RankedLearner":
        """That of rank 0, whose `crew` is told to load the same; it is closed with it, or if that fails."""
        try:
            crew.ranks.tell(setup)
            learner = cls(setup.config, model_folder, dtype=NAMED_DTYPES[setup.dtype], ranks=crew.ranks)
        except BaseException:
            crew.close()
            raise
        learner._end_crew = crew.close
        return learner

    def _load(self, folder: Path, dtype: torch.dtype, *, with_value_head: bool) -> TreeModel:
        # Whole on the CPU, layer by layer to where it computes: there it would not have room as a whole.
        reproducible = self.config.reproducible_attention
        return load_tree_model(folder, dtype, with_value_head, reproducible=reproducible)

    def _distribute(self, model: TreeModel) -> None:
        shard_model(model, self._mesh, self.dtype)

    def step(
        self,
        trees: Sequence[TrajectoryTree],
        *,
        objective: ObjectiveConfig | None = None,
        lr: float | None = None,
        expect_agreement: bool = False,
    ) -> StepReport:
        """As `Learner.step`, by all ranks."""
        objective = objective or self.config.objective
        order = Step(objective=objective, lr=lr, expect_agreement=expect_agreement)
        with self.together(order, trees, same_errors=True):
            return super().step(trees, objective=objective, lr=lr, expect_agreement=expect_agreement)

    def recompute_logprobs(self, trees: Sequence[TrajectoryTree]) -> list[Float32]:
        """As `Learner.recompute_logprobs`; every rank computes all of them."""
        with self.together(Recompute(), trees, same_errors=True):
            found = super().recompute_logprobs(trees)
            release(self.model)
            return found

    def forget(self) -> None:
        """As `Learner.forget`, by all ranks."""
        with self.together(Forget()):
            super().forget()

    @contextmanager
    def together(
        self, order: Order, trees: Sequence[TrajectoryTree] = (), *, same_errors: bool = False
    ) -> Iterator[None]:
        """Tell the others first. What all ranks do inside is done when the block ends.

        `same_errors`: a LearnerError inside comes to all of them alike, so that they can go on. After any
        other one they are out of step, and this learner is not whole.
        """
        if self.ranks.rank == 0:
            if not self.is_whole:
                msg = "the ranks of the learner are out of step after an error: nothing more can be done"
                raise TrainingError(msg)
            self.ranks.tell(order, trees)
        self.is_whole = False
        try:
            yield
        except RuntimeError:
            # Of talking to a rank that is gone, or of our own.
            self.ranks.wait_for_loss()
            raise
        except LearnerError:
            self.is_whole = same_errors
            raise
        self.is_whole = True

    def close(self) -> None:
        """End the other ranks. Idempotent."""
        self._end_crew(end_others=self.is_whole)

    def _prepare(self, trees: Sequence[TrajectoryTree], objective: ObjectiveConfig) -> Batch:
        batch = prepare_batch(
            trees,
            objective,
            max_tokens=self.config.max_tokens,
            num_ranks=self.ranks.size,
            pair_cost=self._pair_cost,
        )
        self._expect_same(batch)
        return batch

    def _expect_same(self, batch: Batch) -> None:
        """Every rank packs for itself; from another pack on, nothing would fit together."""
        sizes = [pack.trie.num_tokens for pack in batch.packs]
        found = self.ranks.gather(msgspec.msgpack.encode((sizes, batch.shares)))
        for name, others in zip(self.ranks.names, found, strict=True):
            if others != found[0]:
                msg = f"expected the packs of rank 0 on all ranks, got others on {name}: another processor?"
                raise TrainingError(msg)

    def _accumulate(self, batch: Batch, objective: ObjectiveConfig) -> Tally:
        own = accumulate_share(
            self.model,
            batch,
            objective,
            rank=self.ranks.rank,
            gather=self.config.gather,
            pair_cost=self._pair_cost,
            policy_version=self.policy_version,
            reference=self._reference_of(objective),
        )
        together = Tally()
        for share in self.ranks.gather(msgspec.msgpack.encode(own)):
            together.add(msgspec.msgpack.decode(share, type=Tally))
        return together
