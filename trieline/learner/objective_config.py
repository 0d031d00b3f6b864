"""What the learner optimises: advantages, policy loss, terms and normalisation. Importable without torch.

A setting that has no effect in the chosen combination is an error (`validate`), so that nobody tunes a number
that nothing reads. A setting left at its default never is.
"""

import math
from typing import Annotated, Literal

import msgspec

from trieline.common.numbers import Fraction, PositiveFloat
from trieline.learner.errors import ObjectiveError

NonNegative = Annotated[float, msgspec.Meta(ge=0)]

MAX_RATIO = 100.0
"""No ratio pi/mu counts for more, in any loss or estimator. A token whose probability has grown a hundredfold
within the few versions of staleness says that something else is wrong; unbounded, that one token would be
the whole gradient once the norm is clipped, and beyond e^88 the step is lost. Far above every clip in use."""
MAX_LOG_RATIO = math.log(MAX_RATIO)


class ObjectiveConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is optimised.

    The defaults are those that most of the field now shares: no KL, clip 0.2/0.28, no division by the
    standard deviation, token mean, groups without variance skipped.
    """

    advantage: Literal["group", "vtrace", "tree"] = "group"
    """`group`: return minus the mean return of the other episodes of the task. `vtrace`: V-trace on the
    trie with a value head. `tree`: mean return under a branch minus that under its parent."""
    scale_rewards: Literal["none", "group", "batch"] = "none"
    """Divide `group` and `tree` advantages by the standard deviation of the returns of the task or batch."""
    skip_zero_std: bool = True
    """Leave tasks out whose returns are all equal: their `group` and `tree` advantages are zero."""

    loss: Literal["vtrace_pg", "ppo_clip", "tis", "icepop", "pg", "sft"] = "ppo_clip"
    """How a token's advantage becomes a loss. `pg` corrects for no lag. `sft` ignores advantages: likelihood
    of the sampled tokens."""
    clip_low: Fraction = 0.2
    clip_high: NonNegative = 0.28
    """`ppo_clip` keeps the ratio pi/mu within [1 - clip_low, 1 + clip_high]."""
    dual_clip: Annotated[float, msgspec.Meta(gt=1)] | None = None
    """`ppo_clip`: where the advantage is negative, a token's loss counts this ratio at most (dual-clip PPO,
    arXiv 1912.09729; 3 is usual). None: up to the bound of every ratio, 100."""
    tis_cap: PositiveFloat = 2.0
    """`tis` truncates the ratio pi/mu here."""
    icepop_low: NonNegative = 0.5
    icepop_high: PositiveFloat = 5.0
    """`icepop` drops the tokens whose ratio pi/mu is outside these."""

    gamma: Fraction = 1.0
    lam: Fraction = 1.0
    rho_bar: PositiveFloat = 1.0
    c_bar: PositiveFloat = 1.0
    """V-trace (advantage `vtrace`): discount, trace decay, clips of the target and of the trace."""
    rho_pg_bar: PositiveFloat = 1.0
    """Clip of the ratio pi/mu in the loss `vtrace_pg`."""
    value_coef: PositiveFloat = 0.5
    """Weight of the value loss (advantage `vtrace`)."""

    entropy_scaling: Literal["off", "sequence", "token"] = "off"
    """Multiply advantages by the recorded entropy over its mean, of the rollout or of the token."""
    entropy_scale_min: NonNegative = 0.5
    entropy_scale_max: PositiveFloat = 2.0
    """Clips of that factor (s_min and s_max)."""

    entropy_coef: NonNegative = 0.0
    """Weight of the entropy bonus."""
    kl_coef: NonNegative = 0.0
    """Weight of the KL to the reference model. 0: no reference model is loaded."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"

    norm: Literal["token", "rollout", "tree"] = "token"
    """The loss is a mean over the sampled tokens of the whole batch, or over rollouts, or over trees, of
    such a mean. A rollout is an episode with all its context windows and sub-agents. Independent of how the
    batch is packed."""
    temperature: PositiveFloat = 1.0
    """The temperature at which the trees were sampled."""

    @property
    def needs_value_head(self) -> bool:
        return self.advantage == "vtrace" and self.loss != "sft"

    @property
    def skips_equal_returns(self) -> bool:
        """Whether tasks whose returns are all equal are left out of training."""
        return self.skip_zero_std and self.advantage != "vtrace" and self.loss != "sft"

    def validate(self) -> None:
        """Raise ObjectiveError for limits that contradict each other and settings without effect."""
        for low, high in (("entropy_scale_min", "entropy_scale_max"), ("icepop_low", "icepop_high")):
            if getattr(self, low) > getattr(self, high):
                msg = f"expected {low} <= {high}, got {getattr(self, low)} > {getattr(self, high)}"
                raise ObjectiveError(msg)
        for name in _RATIO_LIMITS:
            value = getattr(self, name)
            if value is not None and value > MAX_RATIO:
                msg = f"expected {name} <= {MAX_RATIO:g}, beyond which no ratio counts; got {value:g}"
                raise ObjectiveError(msg)
        if self.dual_clip is not None and self.dual_clip <= 1 + self.clip_high:
            msg = (
                f"expected dual_clip > 1 + clip_high = {1 + self.clip_high:g}, got {self.dual_clip:g}: "
                "tokens that are to become rarer would be clipped before those that are to become likelier"
            )
            raise ObjectiveError(msg)
        sft, vtrace = self.loss == "sft", self.advantage == "vtrace"
        returns_unused = "with loss = 'sft'" if sft else "with advantage = 'vtrace'"
        self._expect_default(not sft, "with loss = 'sft'", "advantage", "entropy_scaling")
        self._expect_default(not sft and not vtrace, returns_unused, "scale_rewards", "skip_zero_std")
        self._expect_default(not sft and vtrace, "without advantage = 'vtrace'", *_VTRACE_SETTINGS)
        scaled = self.entropy_scaling != "off"
        self._expect_default(scaled, "with entropy_scaling = 'off'", *_SCALING_SETTINGS)
        self._expect_default(self.kl_coef > 0, "with kl_coef = 0", "kl_estimator")
        for loss, settings in _LOSS_SETTINGS.items():
            self._expect_default(self.loss == loss, f"with loss = '{self.loss}'", *settings)

    def _expect_default(self, used: bool, when: str, *settings: str) -> None:
        if used:
            return
        for name in settings:
            value, default = getattr(self, name), _DEFAULTS[name]
            if value != default:
                msg = f"objective.{name} = {value!r} has no effect {when}; remove it (default {default!r})"
                raise ObjectiveError(msg)


_DEFAULTS = {f.name: f.default for f in msgspec.structs.fields(ObjectiveConfig)}
_VTRACE_SETTINGS = ("gamma", "lam", "rho_bar", "c_bar", "value_coef")
_RATIO_LIMITS = ("clip_high", "dual_clip", "tis_cap", "icepop_high", "rho_bar", "c_bar", "rho_pg_bar")
_SCALING_SETTINGS = ("entropy_scale_min", "entropy_scale_max")
_LOSS_SETTINGS = {
    "ppo_clip": ("clip_low", "clip_high", "dual_clip"),
    "tis": ("tis_cap",),
    "icepop": ("icepop_low", "icepop_high"),
    "vtrace_pg": ("rho_pg_bar",),
}
