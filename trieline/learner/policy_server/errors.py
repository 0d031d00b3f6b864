"""The errors of the policy server, a branch of the learner's family."""

from trieline.learner.errors import LearnerError


class PolicyServerError(LearnerError):
    """Anything that goes wrong inside a policy server for a reason outside its own code."""


class InvalidRequestError(PolicyServerError):
    """This request can never be answered. The message says which bound it breaks."""


class OverloadedError(PolicyServerError):
    """Too many requests wait already; ask again later."""


class NonFiniteLogitsError(PolicyServerError):
    """The model gave NaN or infinity: nothing can be sampled from that."""


class EngineError(PolicyServerError):
    """An engine of others failed, or said what it should not. The message names its address."""


class EngineGoneError(EngineError):
    """One that was started here has ended: there is nothing to go on with."""


class EngineLateError(EngineError):
    """It did not answer in time: it hangs, or has too much to do."""


class EngineAwayError(EngineError):
    """It is gone, or is not the one that was given its weights: there is no use in asking it now."""
