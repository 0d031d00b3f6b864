import numpy as np
import pytest

from tests.trees import long_tree
from trieline.learner.intake.staleness import Pacing, staleness
from trieline.wire.tree import TrajectoryTree


def tree(*versions: int) -> TrajectoryTree:
    made = long_tree(np.random.default_rng(0), num_tokens=16, num_leaves=2)
    sampled = np.repeat(made.sampled, np.diff(made.node_offsets))
    made.policy_versions[sampled] = np.resize(versions, int(sampled.sum()))
    return made


def test_a_tree_is_as_old_as_its_oldest_token() -> None:
    assert staleness(tree(3, 5, 4), 7) == 4
    assert staleness(tree(7), 7) == 0
    assert staleness(tree(9), 7) == 0, "sampled by a later version of a run that was resumed"


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_pacing_keeps_every_tree_young_enough(max_staleness: int) -> None:
    """Every tree is sampled in full at the version at which it was asked for, and taken in turn."""
    pacing = Pacing(trees_per_step=4, max_staleness=max_staleness)
    waiting: list[int] = []
    oldest = 0
    for version in range(20):
        missing = pacing.allowance(outstanding=len(waiting), buffered=0)
        waiting += [version] * missing
        taken, waiting = waiting[:4], waiting[4:]
        oldest = max(oldest, version - min(taken))
        assert not any(pacing.is_too_old(tree(v), version) for v in taken)
    assert oldest == max_staleness, "and no younger than it has to be"
    assert pacing.allowance(outstanding=100, buffered=100) == 0
