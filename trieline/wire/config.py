"""What both ends of a wire must agree on: addresses, limits, the model's name, the tasks."""

from typing import Annotated, Any, Literal

import msgspec

from trieline.common.numbers import Count, Positive, PositiveFloat, Seconds


class LinksConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the sockets are: `tcp://HOST:PORT` or `ipc:///path`; `trieline train` picks free ones itself.

    The learner binds `trajectories` and `weights_fetch`, the policy server binds `generate`. A host that is
    no loopback address needs keys at both ends (`trieline keys`).
    """

    trajectories: str = "tcp://127.0.0.1:7701"
    generate: str | tuple[str, ...] = "tcp://127.0.0.1:7702"
    """One address, or those of several policy servers: a server binds the first that is free."""
    weights_fetch: str = "tcp://127.0.0.1:7704"
    keys: str = ""
    """Folder of this machine's keys. If it is named, TCP on loopback has keys, too. "": the user's own,
    `~/.config/trieline/keys`, for addresses that other machines can reach."""
    heartbeat_s: Seconds = 2.0
    """An actor or policy server says that it lives this often."""
    peer_timeout_s: Seconds = 30.0
    """A peer that was silent this long counts as lost: its open assignments go to others."""
    max_message_bytes: Positive = 64 * 1024 * 1024
    max_tree_tokens: Positive = 1_000_000

    def __post_init__(self) -> None:
        if not self.generate_addresses:
            msg = "generate: expected at least one address, got none"
            raise ValueError(msg)

    @property
    def generate_addresses(self) -> tuple[str, ...]:
        """Of all policy servers."""
        return (self.generate,) if isinstance(self.generate, str) else self.generate

    def addresses(self) -> list[tuple[str, str]]:
        """(field, address) of every socket."""
        generate = [("generate", address) for address in self.generate_addresses]
        return [("trajectories", self.trajectories), *generate, ("weights_fetch", self.weights_fetch)]


ADDRESSES = ("trajectories", "generate", "weights_fetch")
"""The fields of `LinksConfig` that are addresses."""


Argument = str | int | float | bool | list[Any] | dict[str, Any]
"""That TOML can say, of an environment or of a chat template."""
RENDERED = {"messages", "tools", "documents", "add_generation_prompt"}
"""What a chat template is given with every rendering."""


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model that all processes speak of."""

    path: str
    """A Hugging Face folder, a hub name, or `builtin:smollm2-135m-instruct` / `builtin:tiny`."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute precision. `auto`: bfloat16 where this machine's CPU has instructions for it."""
    template_kwargs: dict[str, Argument] = {}
    """Arguments to the model's chat template, such as `enable_thinking = false`."""

    def __post_init__(self) -> None:
        if taken := sorted(self.template_kwargs.keys() & RENDERED):
            msg = f"expected template_kwargs without what every rendering sets itself, got {', '.join(taken)}"
            raise ValueError(msg)


class EpisodeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where an episode of one environment ends, if the environment does not end it itself."""

    max_turns: Positive = 8
    max_tokens: Positive = 64
    """New tokens the policy may sample in one turn."""
    max_context: Positive = 2048
    """Tokens of one sequence, prompt included. An episode that would pass it is truncated, or goes on in a
    new context window."""
    compaction: Literal["none", "turns", "outputs"] = "none"
    """What the next window leaves out: the oldest replies with what they were answered, or the text of the
    oldest answers alone. The first message always stays. `none`: the episode is truncated."""
    max_windows: Annotated[int, msgspec.Meta(ge=2, le=100)] = 4
    """Context windows of one episode with compaction; when the last one is full, it is truncated."""
    turn_timeout_s: Seconds | None = None
    """For one call into this environment. None: `actor.turn_timeout_s`."""
    episode_timeout_s: Seconds | None = None
    """For a whole episode. None: `actor.episode_timeout_s`."""

    @property
    def windows(self) -> int:
        """Sequences that one episode may have."""
        return 1 if self.compaction == "none" else self.max_windows


class CurriculumConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often one environment is played, and at which levels."""

    weight: PositiveFloat = 1.0
    """Share of the training tasks, relative to the other environments."""
    levels: list[int] = []
    """Difficulty levels in the order of the curriculum, passed as `options={"level": ...}` to reset.
    Empty: the environment is not asked for a level."""
    open_levels: Positive = 1
    """How many of `levels` are open at the start of training."""
    promote_at: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.7
    """The next level opens when the mean reward at the hardest open one has reached this."""
    eval_levels: list[int] = []
    """Levels of the held-out tasks. Empty: all `levels`."""
    listed: bool = True
    """An environment with a list of tasks (`task_ids`) has each one played once an epoch, and is evaluated on
    the same ones always. False, or where `levels` or a `level` among `kwargs` say which tasks are wanted:
    they are drawn by seed."""
    rest_after: Count = 0
    """A listed task rests when the returns of its last so many groups were equal within each: it is always
    solved or never, and teaches nothing. 0: none rests."""
    rest_epochs: Annotated[int, msgspec.Meta(ge=2)] = 4
    """A resting task is played in every so many epochs only. It wakes when its returns differ."""


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A program that plays the episodes of an environment in the policy's place.

    It is told the task, asks the policy through `OPENAI_BASE_URL` or `ANTHROPIC_BASE_URL`, and knows nothing
    of training.
    """

    command: Annotated[list[str], msgspec.Meta(min_length=1)]
    """Started for each episode, in a folder of its own. `{task}` in it is the task's text, `{task_file}` a
    file with it; the text is on standard input too."""
    environment: dict[str, str] = {}
    """More variables for it. `{step_url}` in them is where it acts."""
    hand_in: Literal["output", "steps"] = "output"
    """What is scored: what it prints, as the environment's one action; or what it does step by step, each
    with `POST $TRIELINE_STEP_URL {"action": ...}`. What it did when its time was up counts, too."""
    preload: list[str] = []
    """Modules of Python that take long to import: they are imported once, and each episode's `python FILE`
    is a fork of that process. Empty: each is started afresh."""
    max_windows: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 8
    """Sequences of one episode: context windows, sub-agents, and histories that the agent rewrote."""
    max_requests: Positive = 64
    """Replies of one episode."""
    max_output: Positive = 1 << 20
    """Bytes of what it prints that are read."""


class EnvConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One environment of the training mix."""

    id: str
    """A Gymnasium id, `module:namespace/Name-v0` if a module must be imported to register it."""
    kwargs: dict[str, Argument] = {}
    """Passed to `gymnasium.make`."""
    episode: EpisodeConfig = EpisodeConfig()
    curriculum: CurriculumConfig = CurriculumConfig()
    agent: AgentConfig | None = None
    """Who plays it. None: the policy, turn by turn."""

    @property
    def windows(self) -> int:
        """Sequences that one episode may have."""
        return self.episode.windows if self.agent is None else self.agent.max_windows

    @property
    def asked_for_tasks(self) -> bool:
        """Is its list of tasks gone through, if it has one?"""
        course = self.curriculum
        return course.listed and not course.levels and "level" not in self.kwargs
