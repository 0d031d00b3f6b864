"""What one actor program is told: how many episodes at once, how to sample, when to give up."""

from typing import Annotated, Literal

import msgspec

from trieline.common.numbers import Count, Positive, Seconds


class ActorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An actor program and its forked workers."""

    processes: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    """Forked workers."""
    episodes: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 64
    """Episodes that run at once in one worker."""
    assignments: Count = 0
    """Tasks that one worker holds at once at most, each of them a group of rollouts: never more than fill
    `episodes`, and one more to fill the gaps that slow rollouts leave. 0: as many as that."""
    env_threads: Positive = 16
    """Calls into environments that run at once in one worker."""
    max_stuck_threads: Positive = 16
    """A worker with more calls than this that never came back ends, and is started afresh."""

    branching: Literal["none", "random", "entropy"] = "none"
    """Where rollouts are forked in the middle: at random turns, or at the turns of highest mean entropy."""
    branches: Count = 0
    """Forks per tree at most, beside the rollouts of the group."""

    temperature: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """0: greedy."""
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    top_k: Count = 0
    """0: no limit. What `top_p` and `top_k` left of the vocabulary is sent along with each sampled token, at
    up to 8 bytes for each token that was left, and the learner takes its ratios over that."""
    system_prompt: str = "You are a helpful assistant."
    """Empty: no system message."""
    seed: Count = 0
    """Mixed into the seeds of sampling and branching. The tasks' own seeds come from the learner."""

    earlier_policy: str = ""
    """Address of a policy server that plays the seats of the opponent `earlier`: of a checkpoint, say. It
    belongs to no run, and follows no learner. Empty: there is none, and such games are broken."""

    turn_timeout_s: Seconds = 60.0
    """For one call into an environment: make, reset, step or fork, its wait for a sandbox included."""
    generate_timeout_s: Seconds = 120.0
    """For one reply of the policy, resubmissions to a restarted server included."""
    episode_timeout_s: Seconds = 900.0
    """For a whole episode, from the moment it got its slot."""

    def __post_init__(self) -> None:
        if self.branching == "none" and self.branches > 0:
            msg = f"expected branching = random or entropy with branches = {self.branches}, got none"
            raise ValueError(msg)
        if self.branching != "none" and self.branches == 0:
            msg = f"expected branches >= 1 with branching = {self.branching}, got 0, which never forks"
            raise ValueError(msg)

    @property
    def capacity(self) -> int:
        """Assignments that one worker holds at most, each of an episode at least."""
        return self.assignments or self.episodes
