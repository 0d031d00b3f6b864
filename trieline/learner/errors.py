"""The errors of the learner: one family, each with the reason in words that a user can act on."""

from trieline.common.errors import TrielineError


class LearnerError(TrielineError):
    """Anything that stops the learner for a reason outside its own code."""


class ObjectiveError(LearnerError):
    """The settings of the objective contradict each other, or one of them would have no effect."""


class ModelRefusedError(LearnerError):
    """The model can't be trained on tries exactly. The message names the model and the part of it."""


class BatchError(LearnerError):
    """The trees of a batch can't be trained on by the chosen objective."""


class ModelSourceError(LearnerError):
    """`model.path` leads to no usable model. The message names what is missing."""


class CheckpointError(LearnerError):
    """A checkpoint is missing, unfinished, corrupt or of another model. The message names the file."""


class MetricsError(LearnerError):
    """The run's figures can't be written. The message names the file."""


class ProbeError(LearnerError):
    """Learner and policy server do not compute the same. Training on such data would be silently wrong."""


class TrainingError(LearnerError):
    """The run can't go on: no batch in time, too many steps without a finite gradient, the mismatch alarm."""


class StopRequested(Exception):
    """No failure: somebody asked the run to stop."""


GLANCE_S = 0.25
"""How long a wait goes on before it looks whether somebody asked to stop."""
