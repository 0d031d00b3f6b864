"""What attention is compared with computes the same; what does not is named and not timed."""

import argparse
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import tree_attention
from benchmarks.attention_loads import paths_of, random_parents, subtree_ends
from benchmarks.attention_sides import SIDES, Pack, Rows, Side, gather_side, varlen_side
from trieline.kernels.preorder import check_preorder


def options(*sides: str) -> argparse.Namespace:
    return argparse.Namespace(
        heads=4, key_heads=2, head_dim=16, max_sequence_tokens=1 << 20, rounds=1, sides=sides
    )


def plain_varlen(q: Tensor, k: Tensor, v: Tensor, rows: Rows) -> Tensor:
    """What FlashAttention promises: the last query of a row sees all its keys."""
    outs = []
    for row in range(len(rows.queries) - 1):
        here, there = (slice(*starts[row : row + 2].tolist()) for starts in (rows.queries, rows.keys))
        queries, keys = here.stop - here.start, there.stop - there.start
        assert queries <= rows.longest_query
        assert keys <= rows.longest_key
        seen = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
        a, b, c = (t.transpose(0, 1)[None] for t in (q[here], k[there], v[there]))
        outs.append(functional.scaled_dot_product_attention(a, b, c, attn_mask=seen, enable_gqa=True)[0])
    return torch.cat(outs, 1).transpose(0, 1)


def pack(load: str, tokens: int = 150) -> Pack:
    return tree_attention.pack_of(load, tokens, 3, "float32", options())[0]


@pytest.mark.parametrize("ratio", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_random_loads_are_preorders_of_their_paths(ratio: float, seed: int) -> None:
    parents = random_parents(300, ratio, np.random.default_rng(seed))
    ends = subtree_ends(parents)
    check_preorder(torch.from_numpy(ends))
    for path in paths_of(parents):
        leaf = path[-1]
        np.testing.assert_array_equal(np.flatnonzero((np.arange(300) <= leaf) & (leaf < ends)), path)


@pytest.mark.parametrize("load", ["random", "agent"])
@pytest.mark.parametrize("make", [gather_side, varlen_side])
def test_sides_in_one_call_are_the_formula(load: str, make: Any) -> None:
    of = pack(load)
    formula = tree_attention.Formula(of, np.random.default_rng(0))
    apart = formula.apart(make(of, lambda: plain_varlen))
    assert max(apart.values()) < 1e-5, apart


def test_a_side_that_is_wrong_is_named_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(of: Pack) -> Side:
        right = SIDES["tree"](of)
        return Side(attend=lambda q, k, v: right.attend(q, k, v) + 1.0, operands=of.qkv)

    monkeypatch.setitem(SIDES, "dense", shifted)
    how = options("tree", "dense", "cudnn")
    tree, wrong, missing = tree_attention.measure("agent", 100, 2, "float32", how)
    assert tree["forward_ms"] > 0
    assert max(tree["apart_from_formula"].values()) < 1e-5
    assert wrong["left_out"].startswith("it is wrong: out is ")
    assert wrong["apart_from_formula"]["v"] < 1e-5
    assert "forward_ms" not in wrong
    assert missing["left_out"] == "cuDNN needs a GPU"


def test_nan_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(of: Pack) -> Side:
        return Side(attend=lambda q, k, v: SIDES["tree"](of).attend(q, k, v * math.nan), operands=of.qkv)

    monkeypatch.setitem(SIDES, "dense", broken)
    (row,) = tree_attention.measure("agent", 100, 2, "float32", options("dense"))
    assert row["left_out"].startswith("it is wrong: ")
