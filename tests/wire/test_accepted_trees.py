import numpy as np
import pytest

from tests.trees import random_tree
from trieline.wire.accepted_trees import AcceptedTrees
from trieline.wire.messages import Purpose, TreeDelivery


def delivery(number: int, purpose: Purpose = "train") -> TreeDelivery:
    tree = random_tree(np.random.default_rng(number))
    return TreeDelivery(
        actor_id="a", sequence_number=number, assignment_id=number, tree=tree, purpose=purpose
    )


def test_each_purpose_has_its_line_and_what_is_not_handed_over_counts() -> None:
    trees = AcceptedTrees()
    trees.add(delivery(0))
    trees.add(delivery(1, "evaluate"))
    trees.add(delivery(2))
    assert (trees.added("train"), trees.added("evaluate")) == (2, 1)
    with pytest.raises(TimeoutError):
        trees.get(0, "train")
    trees.hand_over()
    assert trees.added("train") == 0
    got = [trees.get(0, purpose) for purpose in ("train", "train", "evaluate")]
    assert [d.sequence_number for d in got if d is not None] == [0, 2, 1]


def test_the_end_comes_after_all_trees_and_is_told_to_everybody() -> None:
    trees = AcceptedTrees()
    trees.add(delivery(0))
    trees.end()
    first = trees.get(0, "train")
    assert first is not None
    assert first.sequence_number == 0
    assert [trees.get(0, "train") for _ in range(3)] == [None] * 3
    assert trees.get(0, "evaluate") is None
