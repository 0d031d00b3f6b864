from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trees import random_tree
from trieline.learner.model_folder.tiny_model import save_tiny_model
from trieline.wire.journal import Journal
from trieline.wire.messages import TreeDelivery


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in tiny model."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_tiny_model(folder)
    return folder


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Models this small gain nothing from threads, and on a busy machine lose much."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal of twelve trees, of which one has no scored leaf."""
    folder = tmp_path_factory.mktemp("recorded")
    journal, rng = Journal(folder, segment_bytes=4000), np.random.default_rng(5)
    for number in range(12):
        tree = random_tree(
            rng, vocab_size=260, broken_leaves=1.0 if number == 3 else 0.1, task_id=f"{number}"
        )
        journal.append(TreeDelivery(actor_id="a", sequence_number=number, assignment_id=number, tree=tree))
    journal.close()
    return folder
