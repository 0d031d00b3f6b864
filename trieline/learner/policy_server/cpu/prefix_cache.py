"""Keys and values of token sequences that may come again: shared prompts, and turns that go on.

A radix tree: each node owns a run of tokens and their keys and values, children differ in their first token.
What is common to several sequences is stored once. All entries are of one version of the weights: the owner
clears the cache when it changes them. No node knows its parent: without cycles, the memory of what is cleared
or evicted is free at once, and not when the garbage collector comes by.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor

from trieline.common.prefix import common_prefix

Tokens = npt.NDArray[np.int32]

# Evicting leaves this share of the budget, so that it does not have to be done for every insertion.
KEEP_SHARE = 0.9


@dataclass(slots=True, eq=False)
class _Node:
    tokens: Tokens
    keys: Tensor | None
    """[N, H, len(tokens), D]; None for the root, which has no tokens."""
    values: Tensor | None
    last_used: int = 0
    children: dict[int, "_Node"] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefixRun:
    """A piece of a cached prefix: keys and values, [N, H, n, D] each."""

    keys: Tensor
    values: Tensor


class PrefixCache:
    """At most `max_tokens` tokens, the least recently used out first."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._root = _Node(np.empty(0, np.int32), None, None)
        self._clock = 0
        self.num_tokens = 0

    def match(self, tokens: Tokens) -> tuple[int, list[PrefixRun]]:
        """The longest cached prefix of `tokens`: its length and its pieces in order."""
        self._clock += 1
        length, runs = 0, []
        for _, node, common in self._walk(tokens):
            node.last_used = self._clock
            assert node.keys is not None
            assert node.values is not None
            runs.append(PrefixRun(keys=node.keys[:, :, :common], values=node.values[:, :, :common]))
            length += common
        return length, runs

    def insert(self, tokens: Tokens, read: Callable[[int, int], tuple[Tensor, Tensor]]) -> None:
        """Keep `tokens`; `read(start, stop)` gives keys and values of the part that is not there yet."""
        if len(tokens) > self.max_tokens:
            return
        self._clock += 1
        node, length = self._root, 0
        for parent, reached, common in self._walk(tokens):
            node, length = reached, length + common
            if common < len(reached.tokens):
                node = self._split(parent, reached, common)
            node.last_used = self._clock
        if length == len(tokens):
            return
        keys, values = read(length, len(tokens))
        child = _Node(tokens[length:].copy(), keys, values, self._clock)
        node.children[int(tokens[length])] = child
        self.num_tokens += len(child.tokens)
        if self.num_tokens > self.max_tokens:
            self._evict()

    def _walk(self, tokens: Tokens) -> Iterator[tuple[_Node, _Node, int]]:
        """The nodes along `tokens`, each after its parent, with how many of its tokens agree.

        All agree, but perhaps in the last.
        """
        node, length = self._root, 0
        while length < len(tokens) and (child := node.children.get(int(tokens[length]))) is not None:
            common = common_prefix(child.tokens, tokens[length:])
            whole = common == len(child.tokens)  # before the caller may split the child
            yield node, child, common
            if not whole:
                return
            node, length = child, length + common

    def _split(self, parent: _Node, node: _Node, at: int) -> _Node:
        """Put the first `at` tokens of `node` into a node between it and its parent, and give that back."""
        assert node.keys is not None
        assert node.values is not None
        # Copies: a view would keep the memory of both halves alive until both are evicted.
        upper = _Node(node.tokens[:at], node.keys[:, :, :at].clone(), node.values[:, :, :at].clone())
        upper.children[int(node.tokens[at])] = node
        parent.children[int(node.tokens[0])] = upper
        node.tokens = node.tokens[at:]
        node.keys, node.values = node.keys[:, :, at:].clone(), node.values[:, :, at:].clone()
        return upper

    def _evict(self) -> None:
        while self.num_tokens > self.max_tokens * KEEP_SHARE:
            for parent, leaf in sorted(self._leaves(), key=lambda pair: pair[1].last_used):
                if self.num_tokens <= self.max_tokens * KEEP_SHARE:
                    return
                del parent.children[int(leaf.tokens[0])]
                self.num_tokens -= len(leaf.tokens)

    def _leaves(self) -> Iterator[tuple[_Node, _Node]]:
        """Each with its parent."""
        stack = [self._root]
        while stack:
            parent = stack.pop()
            for node in parent.children.values():
                if node.children:
                    stack.append(node)
                else:
                    yield parent, node
