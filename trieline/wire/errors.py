"""The errors of the wire: one family, named by the boundary that was crossed."""

from trieline.common.errors import TrielineError


class WireError(TrielineError):
    """Anything that goes wrong between two processes of Trieline."""


class TreeError(WireError):
    """A trajectory tree breaks one of its invariants."""


class MessageError(WireError):
    """A message is malformed, oversized, of an unknown kind or of another protocol version."""


class AddressError(WireError):
    """An address can't be bound or connected to: in use, malformed, or not safe without keys."""


class KeysError(AddressError):
    """The keys that an address needs are missing, malformed, or open to others."""


class PeerTimeoutError(WireError):
    """A peer stayed silent past a deadline. The message says who was waited for, for what, how long."""


class JournalError(WireError):
    """The journal can't be read or written. The message names the segment and the offset."""


class ModelFolderError(WireError):
    """The model's folder, with the tokenizer that both ends must share, is not on this machine."""


class ContextFullError(WireError):
    """What the policy is to read has no room in its context: the episode can't go on, and is not broken."""
