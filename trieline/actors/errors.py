"""The errors of the actors: one family. What goes wrong in an episode is data (a broken leaf)."""

from trieline.common.errors import TrielineError


class ActorError(TrielineError):
    """Anything that keeps an actor from playing at all."""


class ChatTemplateError(ActorError):
    """A model folder has no usable tokenizer or chat template."""


class ToolGrammarError(ActorError):
    """What a reply is to be forced into can't be said as a grammar."""


class EnvironmentSetupError(ActorError):
    """An environment of the configuration can't be found or made."""


class StuckEnvironmentsError(ActorError):
    """Too many calls into environments never came back: only a new process gets rid of their threads."""


class ConversationError(ActorError):
    """A file of conversations has a line that is none. Names file and line."""


class DemonstrationError(ActorError):
    """An environment can't show how its task is solved."""


class GatewaySetupError(ActorError):
    """A gateway can't serve as it is told to."""


class GatewayRecordError(ActorError):
    """What a gateway records can't be written, or what it recorded before can't be read."""


class EnvFailure(Exception):
    """One episode can't go on. `cause` is one of the tree's `CAUSES`."""

    def __init__(self, *, cause: str, reason: str) -> None:
        super().__init__(reason)
        self.cause = cause
        self.reason = reason


class ForkUnsupportedError(Exception):
    """The environment can't be copied in the middle of an episode."""
