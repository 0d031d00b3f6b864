import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trieline.common.arrays import Int32
from trieline.learner.batch.trie import build_trie

Sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=12)


def arrays(sequences: list[list[int]]) -> list[Int32]:
    return [np.array(s, np.int32) for s in sequences]


def test_the_example_of_the_docstring() -> None:
    trie = build_trie(arrays([[5, 6, 1], [5, 6], [5, 7]]))
    assert trie.token_ids.tolist() == [5, 6, 1, 7]
    assert trie.position.tolist() == [0, 1, 2, 1]
    assert trie.subtree_end.tolist() == [4, 3, 3, 4]
    assert trie.predecessor.tolist() == [-1, 0, 1, 0]
    assert [p.tolist() for p in trie.paths] == [[0, 1, 2], [0, 1], [0, 3]]
    assert (trie.num_tokens, trie.num_sequence_tokens) == (4, 7)


@given(Sequences)
def test_every_prefix_once_in_preorder(sequences: list[list[int]]) -> None:
    trie = build_trie(arrays(sequences))
    prefixes = {tuple(s[: t + 1]) for s in sequences for t in range(len(s))}
    assert trie.num_tokens == len(prefixes)
    for s, path in zip(sequences, trie.paths, strict=True):
        assert trie.token_ids[path].tolist() == s
        assert trie.position[path].tolist() == list(range(len(s)))
        assert trie.predecessor[path].tolist() == [-1, *path[:-1].tolist()]
    ancestors = [set[int]() for _ in range(trie.num_tokens)]
    for i in range(trie.num_tokens):
        before = int(trie.predecessor[i])
        assert before < i
        ancestors[i] = {i} | (ancestors[before] if before >= 0 else set())
    for i in range(trie.num_tokens):
        visible = {j for j in range(trie.num_tokens) if j <= i < trie.subtree_end[j]}
        assert visible == ancestors[i]


@given(Sequences, st.randoms(use_true_random=False))
def test_the_order_of_the_sequences_does_not_matter(sequences: list[list[int]], random: object) -> None:
    shuffled = sorted(range(len(sequences)), key=lambda _: random.random())  # type: ignore[attr-defined]
    trie = build_trie(arrays(sequences))
    other = build_trie(arrays([sequences[b] for b in shuffled]))
    assert np.array_equal(trie.token_ids, other.token_ids)
    assert np.array_equal(trie.subtree_end, other.subtree_end)
    for b, path in zip(shuffled, other.paths, strict=True):
        assert np.array_equal(trie.paths[b], path)
