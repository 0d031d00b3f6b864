"""The count of a step's operations against what torch counts while a plain model runs the same tokens."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.learner.tiny_models import VOCAB_SIZE, WINDOW, tiny_pair
from tests.trees import random_tree
from trieline.learner.batch.batch import prepare_batch
from trieline.learner.batch.trie import Trie
from trieline.learner.model.flops import peak_flops, step_flops
from trieline.learner.objective_config import ObjectiveConfig

QUERY_HEADS, HEAD_WIDTH = 6, 8


@pytest.mark.parametrize(
    ("architecture", "windows"),
    [("llama", [0, 0]), ("qwen2", [0, WINDOW]), ("qwen3", [0, 0]), ("mistral", [WINDOW, WINDOW])],
)
def test_counts_what_a_plain_model_does_for_the_unique_tokens(architecture: str, windows: list[int]) -> None:
    model, plain = tiny_pair(architecture)
    rng = np.random.default_rng(0)
    trees = [random_tree(rng, vocab_size=VOCAB_SIZE, max_nodes=6, max_node_tokens=5) for _ in range(3)]
    batch = prepare_batch(trees, ObjectiveConfig(loss="sft"), max_tokens=10_000)
    (pack,) = batch.packs
    expected = linear_flops(plain, pack.trie.num_tokens, len(pack.rows))
    assert pairs(pack.trie, WINDOW) < pairs(pack.trie, 0) == pack.trie.num_visible_pairs
    expected += 12 * sum(pairs(pack.trie, window) for window in windows) * QUERY_HEADS * HEAD_WIDTH
    assert step_flops(model, batch) == expected


def pairs(trie: Trie, window: int) -> int:
    """Of a query and a key that it sees."""
    return sum(
        not window or trie.position[i] - trie.position[j] < window
        for j, end in enumerate(trie.subtree_end)
        for i in range(j, end)
    )


def linear_flops(plain: Any, tokens: int, rows: int) -> int:
    """Of the products with weights, forward and backward; attention's own products are of another kind."""
    counter = FlopCounterMode(display=False)
    with counter:
        hidden = plain.model(torch.zeros(1, tokens, dtype=torch.int64)).last_hidden_state
        plain.get_output_embeddings()(hidden[0, :rows]).sum().backward()
    counts = counter.get_flop_counts()["Global"]
    return sum(count for op, count in counts.items() if str(op) in ("aten.mm", "aten.addmm"))


def test_the_peak_is_a_speed() -> None:
    # Between the slowest thread of a machine that runs torch at all and the fastest processor.
    assert 1e8 < peak_flops(torch.float32) < 1e17
