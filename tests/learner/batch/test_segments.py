"""Cutting a trie for depth-first execution: every token once, below its ancestors, within the budget."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trieline.common.arrays import Int32
from trieline.learner.batch.segments import SEGMENTS_IN_BUDGET, Segment, cut_segments
from trieline.learner.batch.trie import Trie, build_trie


def ancestors(trie: Trie, token: int) -> list[int]:
    found = []
    while trie.predecessor[token] >= 0:
        token = int(trie.predecessor[token])
        found.append(token)
    return found[::-1]


def trunks_above(segments: list[Segment], i: int) -> list[int]:
    """The tokens above segment i: the trunks of those that it hangs below, from the root."""
    above = segments[i].above
    if above < 0:
        return []
    return [*trunks_above(segments, above), *segments[above].tokens[segments[above].trunk].tolist()]


def line_above(segments: list[Segment], i: int) -> list[int]:
    line = []
    while segments[i].above >= 0:
        i = segments[i].above
        line.append(i)
    return line


def expect_valid(trie: Trie, segments: list[Segment], max_tokens: int) -> None:
    assert sorted(t for s in segments for t in s.tokens.tolist()) == list(range(trie.num_tokens))
    for i, segment in enumerate(segments):
        assert len(segment.tokens) <= max(1, max_tokens // SEGMENTS_IN_BUDGET)
        assert segment.above < i
        kept = [segments[j] for j in line_above(segments, i) if segments[j].keeps_graph]
        assert sum(len(s.tokens) for s in (segment, *kept)) <= max_tokens, "tokens that have activations"
        closed = len(segment.trunk) == 0
        assert segment.keeps_graph or not closed
        below = [j for j in range(len(segments)) if i in line_above(segments, j)]
        assert below == list(range(i + 1, segment.end)), "what hangs below follows without a gap"
        assert bool(below) != closed
        above = trunks_above(segments, i)
        assert len(above) == segment.depth
        own = set(segment.tokens.tolist())
        ends = segment.subtree_end(trie)
        for q, token in enumerate(segment.tokens.tolist()):
            seen = {int(segment.tokens[k]) for k in range(q) if q < ends[k]}
            assert [*above, *sorted(seen)] == ancestors(trie, token)
            assert seen <= own


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 25),
    length=st.integers(1, 30),
    alphabet=st.integers(1, 3),
    max_tokens=st.integers(1, 60),
)
def test_random_forests(seed: int, count: int, length: int, alphabet: int, max_tokens: int) -> None:
    rng = np.random.default_rng(seed)
    sequences = [
        rng.integers(0, alphabet, int(rng.integers(1, length + 1))).astype(np.int32) for _ in range(count)
    ]
    trie = build_trie(sequences)
    expect_valid(trie, cut_segments(trie, max_tokens=max_tokens), max_tokens)


def comb(teeth: int) -> Trie:
    """A line of tokens with one more token beside each."""
    line = np.zeros(teeth, np.int32)
    sequences: list[Int32] = [np.append(line[:i], 1).astype(np.int32) for i in range(teeth)]
    return build_trie([*sequences, line])


def test_a_comb_is_not_cut_into_single_tokens() -> None:
    trie = comb(500)
    segments = cut_segments(trie, max_tokens=128)
    expect_valid(trie, segments, 128)
    assert len(segments) <= 2.5 * trie.num_tokens / 32


@pytest.mark.parametrize(("max_tokens", "computes_again"), [(4096, False), (2560, False), (1024, True)])
def test_the_segments_nearest_to_the_root_are_computed_again(max_tokens: int, computes_again: bool) -> None:
    """A trunk of 1,000 tokens with 31 branches of 1,000: paths of 2,000 tokens."""
    rng = np.random.default_rng(0)
    trunk = rng.integers(0, 1000, 1000)
    trie = build_trie(
        [np.concatenate([trunk, rng.integers(0, 1000, 1000)]).astype(np.int32) for _ in range(31)]
    )
    segments = cut_segments(trie, max_tokens=max_tokens)
    again = [s for s in segments if not s.keeps_graph]
    assert bool(again) == computes_again
    # Of the trunk, which is a 32nd of all tokens.
    assert all(s.depth < 1000 for s in again)
