"""Settings of the learner process. Importable without torch.

A setting that would have no effect in the chosen combination is an error (`validate`).
"""

from typing import Annotated, Literal

import msgspec

from trieline.common.numbers import Count, Fraction, Positive, PositiveFloat, Seconds
from trieline.learner.errors import LearnerError
from trieline.learner.objective_config import ObjectiveConfig


class OptimizerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """AdamW on float32 master weights."""

    states: Literal["32bit", "8bit"] = "32bit"
    """Of each number of the two moments. `8bit`: a quarter of their memory, by bitsandbytes; on one rank."""

    lr: PositiveFloat = 1e-5
    betas: tuple[Annotated[float, msgspec.Meta(ge=0, lt=1)], Annotated[float, msgspec.Meta(ge=0, lt=1)]] = (
        0.9,
        0.95,
    )
    eps: PositiveFloat = 1e-8
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this norm, over all parameters."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls after the warm-up, to `final_lr_fraction` of it at the last step."""
    warmup_steps: Count = 0
    """Steps over which the learning rate rises to `lr`."""
    final_lr_fraction: Fraction = 0.0
    """For the schedules `linear` and `cosine`."""


class LoraConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Adapters of low rank are trained, published and saved instead of the model's own weights."""

    rank: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 16
    alpha: Positive = 32
    """What the adapters add is scaled by alpha / rank."""
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Last parts of the names of the linear layers that get one (`q_proj`). `all-linear`: all but the output
    embedding."""

    def __post_init__(self) -> None:
        if not self.targets:
            msg = "expected targets of at least one layer, or 'all-linear', got none"
            raise ValueError(msg)


class WarmStartConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Supervised steps on demonstrations before the first step of reinforcement learning.

    They end at a measured sampled success: a warm start by step count stops too early or too late.
    """

    target: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.35
    """Ends when the sampled success has reached this in every environment. Those that are there wait for the
    others, and are not demonstrated meanwhile."""
    max_steps: Positive = 1000
    """Reaching this without the target is an error."""
    trees_per_step: Positive = 64
    lr: PositiveFloat = 1e-3
    """Higher than the rate of reinforcement learning, which collapses at it."""
    evaluate_every: Positive = 25
    """Steps between two measurements."""


class EvaluationConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Held-out success on tasks of the split `test`, always the same ones, played by the actors."""

    episodes: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 100
    """Tasks per environment: evenly out of its list (all, if it is shorter), or drawn by `seed`. 0: none is
    played."""
    attempts: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    """Episodes per task; the k of avg@k and pass@k."""
    temperature: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """0: greedy. The training temperature shows what training changes."""
    every: Count = 0
    """Steps between two evaluations beside training. 0: only before the first step and after the last."""
    share: Fraction = 0.25
    """Of the actors' episodes, for an evaluation while training asks for others. What is left over it gets,
    too."""
    transcripts: Annotated[int, msgspec.Meta(ge=0, le=100)] = 4
    """Episodes per environment that are kept as text, of the same tasks every time."""
    seed: Count = 20_000

    def __post_init__(self) -> None:
        if self.every and not self.episodes:
            msg = f"expected every = 0 with episodes = 0, which measures nothing, got {self.every}"
            raise ValueError(msg)


class MixConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often each environment of a mix is played."""

    follow: Literal["weights", "progress"] = "weights"
    """`progress`: those whose returns change are played more, within what their weights say
    (`intake.progress`)."""
    least_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.3
    """Of its share by weight, what an environment keeps whatever the progress of the others."""
    half_life: Positive = 16
    """Groups of rollouts of an environment after which its averages have forgotten half of what was."""

    def validate(self, num_envs: int) -> None:
        """Raise LearnerError for settings without effect."""
        default = MixConfig()
        if self.follow == "weights":
            for name in ("least_share", "half_life"):
                if (value := getattr(self, name)) != getattr(default, name):
                    _no_effect(f"mix.{name}", value, "mix.follow = 'weights'")
        elif num_envs < 2:
            _no_effect("mix.follow", self.follow, "a single environment")


class LearnerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The learner process. Counts are trees, rollouts, tokens and steps as their names say."""

    steps: Positive = 100
    """Optimizer steps of the whole run, resumed parts included."""
    max_minutes: Seconds | None = None
    """Stop earlier, after this many minutes since this start of the process. None: no limit."""
    trees_per_step: Positive = 8
    group_size: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 8
    """Rollouts of one task: the least number of sequences in a tree."""
    max_tokens: Positive = 8192
    """Unique tokens whose activations are kept at one time: a larger trie runs depth-first. Bounds the memory
    of a step, not its result."""
    fill_batches: Annotated[float, msgspec.Meta(ge=1, le=100)] = 1.0
    """A step goes on taking trees until `trees_per_step` of them teach something (returns of a task that are
    all equal teach nothing), up to this many times `trees_per_step`. 1: it takes what comes. More costs
    episodes: `fill/idle_tokens`."""
    max_staleness: Count = 1
    """Versions that a token may be behind the weights it trains. 0: acting and learning take turns."""
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    lora: LoraConfig | None = None
    """None: all weights are trained."""
    warm_start: WarmStartConfig | None = None

    promotion_episodes: Positive = 64
    """Newest rollouts of the hardest open level over which its mean reward is taken."""
    hardest_level_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.6
    """Share of an environment's tasks from the hardest open level; the easier ones share the rest."""
    mix: MixConfig = MixConfig()

    checkpoint_every: Positive = 50
    """Steps between two checkpoints. There is always one at the end."""
    keep_checkpoints: Positive = 2
    """The newest ones are kept."""
    journal_segment_mb: Positive = 64
    journal_fsync_s: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """Accepted trees reach the disk at most this long after their acknowledgement (a crash of the process
    loses none in any case). 0: before it."""
    replay: str | None = None
    """Train on this recorded journal folder, in its order, instead of on live actors."""
    replay_epochs: Positive = 1
    """How often the recorded journal is gone through."""

    probe: bool = True
    """Compare the policy server with the learner before the first step."""
    max_mismatch_kl: PositiveFloat | None = None
    """The run stops when `mismatch_kl/mean` of a step is above. None: 0.001 in float32, 0.02 in bfloat16."""
    max_skipped_steps: Positive = 3
    """Steps in a row that may be skipped because a loss or gradient is not finite."""

    max_task_losses: Positive = 3
    """A task that so many actors held when they were lost is set aside and counts as broken."""
    canary_every: Count = 10
    """After so many steps whose trees can't tell whether policy server and learner still agree (none of their
    tokens was sampled by the very weights that are trained), the server is asked for a few tokens to compare.
    0: never."""

    startup_timeout_s: Seconds = 300.0
    """For a policy server to come and load the weights, at the start and whenever none lives."""
    batch_timeout_s: Seconds = 2400.0
    """For the next tree that can be trained on. Longer than an actor may take for the slowest group."""
    weights_timeout_s: Seconds = 60.0
    """For every live policy server to load a version. Longer than a lost one counts as live."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What the learner computes on. `auto`: the GPU if there is one."""
    ranks: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    """Processes that compute each step together, on a GPU each, or sharing the cores of a CPU. Several are
    started on this machine; torchrun may start them instead, on several."""
    gather: Literal["layer", "step"] = "layer"
    """When a rank gets the weights that others hold. `layer`: each layer when its turn comes, in every pass,
    so that a model need not fit into one GPU. `step`: all of them once a step, which is faster where a step
    has several passes or the ranks a slow link, and needs room for the whole model (in what it computes in)
    and its gradient (in float32) on each. A step with a trie beyond `max_tokens` does so in any case."""
    give_way: bool = True
    """Compute on fewer threads while other programs use the cores. False: on the same number always, so that
    a run goes the same way bit for bit on a machine with several cores."""
    gradient_checkpointing: bool = False
    """Layers keep their input alone, and are computed again in the backward: less memory for `max_tokens`, or
    more tokens in it, for a third more time. Gradients are the same."""
    threads: Positive | None = None
    """Threads that compute on the CPU. None: torch decides."""
    reproducible_attention: bool = True
    """In bfloat16 on a CPU, attend in float64, so that learner and policy server compute the same
    log-probabilities (1e-5 nats apart; with AMX, whose products depend on the number of rows, 0.04). False:
    in bfloat16, faster, and 0.03 nats apart in the mean, as two ways of computing in bfloat16 are. Float32
    and GPUs compute the same with either."""

    def validate(self) -> None:
        """Raise LearnerError for contradictions and for settings without effect."""
        self.objective.validate()
        if self.optimizer.schedule == "constant" and self.optimizer.final_lr_fraction:
            _no_effect(
                "optimizer.final_lr_fraction", self.optimizer.final_lr_fraction, "schedule = 'constant'"
            )
        if self.optimizer.warmup_steps >= self.steps:
            msg = (
                f"expected optimizer.warmup_steps < steps, got {self.optimizer.warmup_steps} of "
                f"{self.steps} steps: the learning rate would never be reached"
            )
            raise LearnerError(msg)
        if self.group_size == 1 and self.objective.advantage != "vtrace" and self.objective.loss != "sft":
            msg = (
                f"advantage {self.objective.advantage!r} compares rollouts of one task: "
                "expected group_size >= 2, got 1"
            )
            raise LearnerError(msg)
        if self.ranks == 1 and self.gather != _DEFAULTS["gather"]:
            _no_effect("gather", self.gather, "ranks = 1")
        if self.ranks > 1 and self.optimizer.states == "8bit":
            msg = (
                f"expected optimizer.states = '32bit' with ranks > 1, got '8bit' with {self.ranks}: ranks "
                "share the moments out, which is tried with 32 bits alone"
            )
            raise LearnerError(msg)
        if self.fill_batches > 1 and not self.objective.skips_equal_returns:
            _no_effect("fill_batches", self.fill_batches, "an objective that leaves no equal returns out")
        if self.replay is not None:
            self._validate_replay()
        elif self.replay_epochs != 1:
            _no_effect("replay_epochs", self.replay_epochs, "replay not set")

    def _validate_replay(self) -> None:
        for name in _LIVE_SETTINGS:
            value = getattr(self, name)
            if value != _DEFAULTS[name]:
                _no_effect(name, value, "replay: nothing is sampled")


def _no_effect(name: str, value: object, when: str) -> None:
    msg = f"learner.{name} = {value!r} has no effect with {when}; remove it"
    raise LearnerError(msg)


_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(LearnerConfig)}
_LIVE_SETTINGS = (
    "warm_start",
    "journal_segment_mb",
    "journal_fsync_s",
    "probe",
    "canary_every",
    "max_task_losses",
    "startup_timeout_s",
    "batch_timeout_s",
    "weights_timeout_s",
)
"""Settings left out here are kept in a replay, so that the config of the recorded run can be replayed."""
