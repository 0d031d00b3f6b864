"""From a checkpoint back into a learner, on one rank or on several."""

from pathlib import Path

from trieline.learner.keeping.checkpoint import TrainerState, read_model_weights, read_trainer_tensors
from trieline.learner.update.learner import Learner


def restore_learner(learner: Learner, checkpoint: Path, state: TrainerState) -> None:
    """Go on from `checkpoint`, whose `state` was read, whatever number of ranks has written it.

    Raises:
        CheckpointError: a file is corrupt, or of another model.
    """
    learner.restore(
        read_model_weights(checkpoint, state),
        read_trainer_tensors(checkpoint, state, into=learner.trainer_tensors(), ranks=learner.ranks),
        policy_version=state.policy_version,
        skipped_in_a_row=state.skipped_in_a_row,
    )
