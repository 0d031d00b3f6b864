"""The learner proper: a model, its optimizer, and what one step does to them."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from trieline.common.arrays import Float32
from trieline.common.tally import Tally
from trieline.kernels.cpu.threads import LeftCores
from trieline.learner.batch.batch import Batch, prepare_batch
from trieline.learner.config import LearnerConfig
from trieline.learner.errors import CheckpointError, TrainingError
from trieline.learner.model.adapters import Adapters
from trieline.learner.model.checkpointing import checkpoint_layers
from trieline.learner.model.compute_device import choose_device
from trieline.learner.model.flops import peak_flops, step_flops
from trieline.learner.model.tree_forward import TreeModel, load_tree_model
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.ranks.group import Ranks
from trieline.learner.ranks.orders import Order
from trieline.learner.update.eight_bit import EightBitOptimizer
from trieline.learner.update.optimizer import MasterOptimizer, Optimizer, OptimizerFactory
from trieline.learner.update.train_step import accumulate_gradients, recompute_logprobs
from trieline.wire.tree import TrajectoryTree

log = logging.getLogger(__name__)

# Mean k3 of behaviour against recomputed log-probabilities at equal weights. Rounding alone gives some 1e-10
# in float32 and some 6e-4 in bfloat16 (SmolLM2); these limits are far above what it could become.
MISMATCH_LIMITS = {torch.float32: 1e-3, torch.bfloat16: 0.02}

MIN_COMPARED = 32
"""Tokens below which a mean is no ground for an alarm: in bfloat16, single ones are up to 0.3 nats apart."""

VALUE_HEAD = "value_head."
RNG_STATE = "torch_rng_state"


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """What one step did."""

    applied: bool
    """False: there was nothing to learn from, or the loss or gradient was not finite."""
    metrics: Tally


class Learner:
    """Owns everything that training changes, the curriculum and the journal's position excepted."""

    ranks: Ranks | None = None
    """That compute it together. None: this process alone."""

    def __init__(
        self,
        config: LearnerConfig,
        model_folder: Path,
        *,
        dtype: torch.dtype,
        reference_folder: Path | None = None,
        make_optimizer: OptimizerFactory | None = None,
    ) -> None:
        """Load the model in float32 and take its weights as masters; `dtype` is what it computes in.

        `reference_folder`: of the model that the KL term compares with. Loaded only if there is such a term,
        and it is another one than the trained one without its adapters.
        `make_optimizer`: gets the parameters of the policy, then those of the value head. None: as the
        config has it.

        Raises:
            LearnerError: the device or library that the config asks for is not there.
            ModelRefusedError: the model can't be trained on tries.
        """
        self.config = config
        self.dtype = dtype
        self.policy_version = 0
        self.skipped_in_a_row = 0
        self.is_whole = True
        """False: an error cut an update off."""
        self.device = choose_device(config.device)
        self.model: TreeModel = self._load(
            model_folder,
            # Masters are float32; what is not trained is computed with alone.
            torch.float32 if config.lora is None else dtype,
            with_value_head=config.objective.needs_value_head,
        )
        self.adapters = None
        if config.lora is not None:
            self.adapters = Adapters(self.model.hf_model, config.lora, model_folder)
        if config.gradient_checkpointing:
            checkpoint_layers(self.model)
        self._distribute(self.model)
        named = [(name, p) for name, p in self.model.hf_model.named_parameters() if p.requires_grad]
        self._policy_names = [name for name, _ in named]
        head = [] if self.model.value_head is None else list(self.model.value_head.named_parameters())
        value_names = [VALUE_HEAD + name for name, _ in head]
        if make_optimizer is None:
            make_optimizer = EightBitOptimizer if config.optimizer.states == "8bit" else MasterOptimizer
        self.optimizer: Optimizer = make_optimizer(
            # The policy first: its weights are published as one run of bytes.
            [*named, *zip(value_names, (p for _, p in head), strict=True)],
            config.optimizer,
            total_steps=config.steps,
            compute_dtype=dtype,
            full_precision=value_names,
        )
        self._cores = LeftCores(torch.get_num_threads() if config.give_way else 1)
        self._peak_flops = peak_flops(dtype, self.device)
        self.reference: TreeModel | None = None
        if config.objective.kl_coef > 0:
            self.reference = self._load_reference(reference_folder or model_folder, model_folder)

    def _load_reference(self, folder: Path, model_folder: Path) -> TreeModel:
        if self.adapters is not None and folder == model_folder:
            return self.model
        reference = self._load(folder, self.dtype, with_value_head=False).requires_grad_(False)
        self._distribute(reference)
        return reference

    def _load(self, folder: Path, dtype: torch.dtype, *, with_value_head: bool) -> TreeModel:
        reproducible = self.config.reproducible_attention
        return load_tree_model(folder, dtype, with_value_head, reproducible=reproducible, device=self.device)

    @property
    def vocab_size(self) -> int:
        """Rows of the output weight."""
        return int(self.model.output_weight.shape[0])

    @property
    def max_positions(self) -> int | None:
        """Tokens of the longest sequence that the model has positions for; None if it does not say."""
        found = getattr(self.model.hf_model.config.get_text_config(), "max_position_embeddings", None)
        return None if found is None else int(found)

    @property
    def max_mismatch_kl(self) -> float:
        if self.config.max_mismatch_kl is not None:
            return self.config.max_mismatch_kl
        return MISMATCH_LIMITS.get(self.dtype, MISMATCH_LIMITS[torch.bfloat16])

    def step(
        self,
        trees: Sequence[TrajectoryTree],
        *,
        objective: ObjectiveConfig | None = None,
        lr: float | None = None,
        expect_agreement: bool = False,
    ) -> StepReport:
        """One gradient over `trees` and one update. `objective` and `lr` override those of the config.

        `expect_agreement`: the trees came from the policy servers of this run, and say whether these compute
        the same.

        Raises:
            TrainingError: too many steps in a row were not finite, or the servers compute something else;
                nothing was changed.
        """
        objective = objective or self.config.objective
        began = time.monotonic()
        self._cores.look()
        batch = self._prepare(trees, objective)
        metrics = self._accumulate(batch, objective)
        if expect_agreement:
            self.check_mismatch(metrics)
        computed = time.monotonic()
        applied = bool(batch.packs) and self._update(metrics, lr)
        now = time.monotonic()
        self._cores.look()
        self._cores.rest()  # others of this run may compute until the next step
        metrics.add_maximum("time/forward_backward", computed - began)
        metrics.add_maximum("time/optimizer", now - computed)
        metrics.add_total("perf/throughput", metrics.get("batch/trie_tokens", 0.0) / (now - began))
        metrics.add_mean("perf/mfu", step_flops(self.model, batch) / (now - began) / self._peak_flops, 1)
        if "batch/sequence_tokens" in metrics:
            metrics.add_total("perf/sequence_throughput", metrics["batch/sequence_tokens"] / (now - began))
        return StepReport(applied=applied, metrics=metrics)

    def _distribute(self, model: TreeModel) -> None:
        """Leave to other processes what they are to hold of a model that was loaded. One process: nothing."""

    def _prepare(self, trees: Sequence[TrajectoryTree], objective: ObjectiveConfig) -> Batch:
        return prepare_batch(trees, objective, max_tokens=self.config.max_tokens)

    def _accumulate(self, batch: Batch, objective: ObjectiveConfig) -> Tally:
        return accumulate_gradients(
            self.model,
            batch,
            objective,
            policy_version=self.policy_version,
            reference=self._reference_of(objective),
        )

    def _reference_of(self, objective: ObjectiveConfig) -> TreeModel | None:
        # A warm start's objective has no KL term, whatever the run's has.
        return self.reference if objective.kl_coef > 0 else None

    def _update(self, metrics: Tally, lr: float | None) -> bool:
        finite_loss = all(math.isfinite(v) for name, v in metrics.items() if name.startswith("loss/"))
        if not finite_loss:
            self.optimizer.zero_grad()
        else:
            self.is_whole = False
            update = self.optimizer.step(lr=lr)
            self.is_whole = True
            metrics.add_maximum("optim/lr", update.lr)
            metrics.add_maximum("optim/grad_norm", update.grad_norm)
        if finite_loss and update.applied:
            self.policy_version += 1
            self.skipped_in_a_row = 0
            metrics.add_maximum("optim/skipped", 0.0)
            return True
        self.skipped_in_a_row += 1
        metrics.add_maximum("optim/skipped", 1.0)
        what = "gradient" if finite_loss else "loss"
        log.warning(
            "the %s is not finite: the step is skipped, the %d. in a row", what, self.skipped_in_a_row
        )
        if self.skipped_in_a_row > self.config.max_skipped_steps:
            msg = (
                f"{self.skipped_in_a_row} steps in a row had a {what} that is not finite, expected at most "
                f"max_skipped_steps = {self.config.max_skipped_steps}: lower optimizer.lr, or go back to an "
                "earlier checkpoint"
            )
            raise TrainingError(msg)
        return False

    def check_mismatch(self, figures: Tally, prefix: str = "mismatch_kl") -> bool:
        """Whether enough tokens were compared to tell.

        Raises:
            TrainingError: recorded and recomputed log-probabilities have parted.
        """
        name = f"{prefix}/mean"
        _, compared = figures.means.get(name, (0.0, 0.0))
        if compared < MIN_COMPARED:
            return False
        if figures[name] <= self.max_mismatch_kl:
            return True
        self.optimizer.zero_grad()
        msg = (
            f"{name} is {figures[name]:.3g}, expected at most {self.max_mismatch_kl:g}: the policy "
            "server does not sample from what the learner trains (other weights, temperature or "
            "precision?). learner.max_mismatch_kl sets the limit"
        )
        raise TrainingError(msg)

    def recompute_logprobs(self, trees: Sequence[TrajectoryTree]) -> list[Float32]:
        """Those of the sampled tokens of all leaves, as `update.train_step.recompute_logprobs`."""
        return recompute_logprobs(self.model, trees, temperature=self.config.objective.temperature)

    def forget(self) -> None:
        """Begin a new schedule without moments, with the weights as they are."""
        self.optimizer.forget()

    def together(self, order: Order) -> AbstractContextManager[None]:
        """Around what all ranks of the learner do at the same time. One process: nothing."""
        return nullcontext()

    def close(self) -> None:
        """Nothing is left running. Idempotent."""

    def weights(self) -> dict[str, torch.Tensor]:
        """What is trained of the policy, in the compute dtype, as views.

        By the names of the Hugging Face model, or of adapters by those of peft.
        """
        return self._published(self.optimizer.weights())

    def masters(self) -> dict[str, torch.Tensor]:
        """The same in float32."""
        return self._published(self.optimizer.masters())

    def _published(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        policy = {name: tensors[name] for name in self._policy_names}
        return policy if self.adapters is None else self.adapters.published(policy)

    @property
    def adapter_config(self) -> str | None:
        """`adapter_config.json` of what `weights` gives; None: whole weights."""
        return None if self.adapters is None else self.adapters.config_json

    def trainer_tensors(self) -> dict[str, torch.Tensor]:
        """Everything else that a checkpoint needs."""
        masters = self.optimizer.masters()
        heads = {name: masters[name] for name in masters if name.startswith(VALUE_HEAD)}
        return {**self.optimizer.state_dict(), **heads, RNG_STATE: torch.get_rng_state()}

    def restore(
        self,
        masters: Mapping[str, torch.Tensor],
        tensors: Mapping[str, torch.Tensor],
        *,
        policy_version: int,
        skipped_in_a_row: int,
    ) -> None:
        """Go on from what `masters` and `trainer_tensors` gave.

        Raises:
            CheckpointError: something is missing, or of another model.
        """
        heads = {name: t for name, t in tensors.items() if name.startswith(VALUE_HEAD)}
        policy = masters if self.adapters is None else self.adapters.own(masters)
        self.optimizer.load_masters({**policy, **heads})
        self.optimizer.load_state_dict(tensors)
        if RNG_STATE not in tensors:
            msg = f"expected {RNG_STATE} among the tensors of the checkpoint, found none"
            raise CheckpointError(msg)
        torch.set_rng_state(tensors[RNG_STATE])
        self.policy_version = policy_version
        self.skipped_in_a_row = skipped_in_a_row
