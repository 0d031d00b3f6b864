"""The trie: many sequences merged by equal token prefixes, so that each prefix is computed once.

Tokens stand in depth-first preorder. Query i sees key j iff `j <= i < subtree_end[j]`: that one vector is the
whole attention mask. Every sequence is an index path into the trie, and may end where others go on. Several
first tokens make a forest; everything here takes it like one trie.

What is merged are *keys*: token ids, or 64-bit numbers of which the token id is the lower half. Tokens of
different keys stay apart, and what follows them does, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trieline.common.arrays import Int32, Int64
from trieline.common.prefix import common_prefix

Keys = Int32 | Int64
TOKEN_BITS = 32
TOKEN_MASK = (1 << TOKEN_BITS) - 1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trie:
    """N unique tokens of B sequences.

    Example, the sequences [5, 6, 1], [5, 6] and [5, 7]:
    `token_ids=[5, 6, 1, 7]`, `position=[0, 1, 2, 1]`, `subtree_end=[4, 3, 3, 4]`,
    `predecessor=[-1, 0, 1, 0]`, `paths=([0, 1, 2], [0, 1], [0, 3])`.
    """

    token_ids: Int32
    """[N] in depth-first preorder."""
    position: Int32
    """[N] depth, from 0; the position for rotary embeddings."""
    subtree_end: Int32
    """[N] one past the last token under each token."""
    predecessor: Int32
    """[N] index of the token before it on its path, -1 for first tokens."""
    paths: tuple[Int32, ...]
    """[B] index path of each sequence, in the order in which the sequences were given."""

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_visible_pairs(self) -> int:
        """Query-key pairs of one attention head: each token sees itself and those above it."""
        return int(self.position.sum(dtype=np.int64)) + self.num_tokens

    def num_pairs_within(self, window: int) -> int:
        """`num_visible_pairs` where each token sees the last `window` tokens of its path alone; 0: all."""
        if not window:
            return self.num_visible_pairs
        return int(np.minimum(self.position, window - 1).sum(dtype=np.int64)) + self.num_tokens

    @property
    def num_sequence_tokens(self) -> int:
        """L: the tokens of all sequences, each counted in full."""
        return sum(len(path) for path in self.paths)


def build_trie(sequences: Sequence[Keys]) -> Trie:
    """Merge sequences of keys (each of at least one).

    In lexicographic order each sequence adds exactly its tokens after the longest common prefix with its
    predecessor, and the additions in that order are the preorder. O(L) numpy work, O(B) Python steps.
    """
    order = lexicographic_order(sequences)
    num_tokens = sum(len(sequence) for sequence in sequences)
    token_ids, position, subtree_end, predecessor = (np.empty(num_tokens, np.int32) for _ in range(4))
    paths = [np.empty(0, np.int32)] * len(sequences)
    open_keys: Keys = np.empty(0, np.int32)
    open_path = np.empty(0, np.int32)
    size = 0
    for b in order:
        keys = sequences[b]
        shared = common_prefix(open_keys, keys)
        end = size + len(keys) - shared
        subtree_end[open_path[shared:]] = size
        token_ids[size:end] = keys[shared:] & TOKEN_MASK if keys.dtype == np.int64 else keys[shared:]
        position[size:end] = np.arange(shared, len(keys), dtype=np.int32)
        predecessor[size:end] = np.arange(size - 1, end - 1, dtype=np.int32)
        if end > size:
            predecessor[size] = open_path[shared - 1] if shared else -1
        open_path = np.concatenate([open_path[:shared], np.arange(size, end, dtype=np.int32)])
        open_keys = keys
        paths[b] = open_path
        size = end
    subtree_end[open_path] = size
    return Trie(
        token_ids=token_ids[:size].copy(),
        position=position[:size].copy(),
        subtree_end=subtree_end[:size].copy(),
        predecessor=predecessor[:size].copy(),
        paths=tuple(paths),
    )


def lexicographic_order(sequences: Sequence[Keys]) -> list[int]:
    """Indices of `sequences` in the order of their keys, a prefix before what goes on."""
    # Keys are not negative, so the order of their big-endian bytes is their lexicographic order.
    dtype = ">i8" if any(sequence.dtype == np.int64 for sequence in sequences) else ">i4"
    keys = [sequence.astype(dtype).tobytes() for sequence in sequences]
    return sorted(range(len(keys)), key=keys.__getitem__)
