"""What one episode leaves: its turns, token for token, before the rollouts of a task become one tree."""

from dataclasses import dataclass, field

from trieline.actors.window import Window
from trieline.common.arrays import Int32
from trieline.common.message import Message, Tool
from trieline.wire.messages import Completion
from trieline.wire.tree import SCORED


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One reply of the policy, the tokens that came before it, and what the environment gave for it."""

    context: Int32
    """[C] tokens between the previous reply and this one. At the first turn, the prompt; at that of a fork,
    nothing (its origin has them); at that of a later window, all that follows the prompt."""
    completion: Completion
    reply: str
    """The text that the environment got."""
    window: Window | None = None
    """All that the policy saw before this reply; None: nobody played it."""
    opens_window: bool = False
    """The reply is the first one of a later context window."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a fork left another rollout: before the reply of its turn `turn`."""

    rollout: int
    turn: int


@dataclass(kw_only=True, slots=True)
class Rollout:
    """One episode, complete or broken. A fork's turns are only its own, those after `origin`."""

    index: int
    """Number within the tree: the rollouts of the group first, then the forks."""
    origin: Origin | None = None
    """None: it began with the task."""
    seat: int = 0
    """Of a game of several players. Rollouts of one seat are compared with each other."""
    turns: list[Turn] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    """[len(turns)] or one fewer, when the environment failed on the last reply."""
    heard: list[tuple[Message, ...]] = field(default_factory=list)
    """What the environment said, at reset first (a fork: at that of its origin), then at each step."""
    tools: tuple[Tool, ...] = ()
    """What may be called."""
    prompt: Int32 | None = None
    """[P] tokens of the prompt, as soon as reset has succeeded."""
    task_id: str = ""
    terminated: bool = False
    cause: str = SCORED
    reason: str = ""
    """Why it is broken, for the log."""
    full: bool = False
    """Broken because the first message alone has no room in the policy's context."""
    score: str = ""
