"""The errors of the learner: one family, each with the reason in words that a user can act on."""


class LearnerError(Exception):
    """Anything that stops the learner for a reason outside its own code."""


class ObjectiveError(LearnerError):
    """The settings of the objective contradict each other, or one of them would have no effect."""


class ModelRefusedError(LearnerError):
    """The model can't be trained on tries exactly. The message names the model and the part of it."""


class BatchError(LearnerError):
    """The trees of a batch can't be trained on by the chosen objective."""
