"""Keys and values of token sequences that may come again: shared prompts, and turns that go on.

A radix tree: each node owns a run of tokens and their keys and values, children differ in their first token.
Where these lie and what holding them means is the business of their `Run`.
What is common to several sequences is stored once. All entries are of one version of the weights: the owner
clears the cache when it changes them. No node knows its parent: without cycles, the memory of what is cleared
or evicted is free at once, and not when the garbage collector comes by.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from trieline.common.prefix import common_prefix

Tokens = npt.NDArray[np.int32]

# Evicting leaves this share of the budget, so that it does not have to be done for every insertion.
KEEP_SHARE = 0.9


class Run(Protocol):
    """Keys and values of consecutive tokens."""

    def __len__(self) -> int: ...

    def view(self, start: int, stop: int) -> Self:
        """A part, good as long as the whole is held."""
        ...

    def copy(self, start: int, stop: int) -> Self:
        """A part that lives by itself when the whole is dropped; the parts take its place, `free` each."""
        ...

    def free(self) -> None:
        """Nobody holds it any more."""
        ...


T = TypeVar("T", bound=Run)


@dataclass(slots=True, eq=False)
class _Node(Generic[T]):
    tokens: Tokens
    run: T | None
    """None for the root, which has no tokens."""
    last_used: int = 0
    children: dict[int, "_Node[T]"] = field(default_factory=dict)


class PrefixCache(Generic[T]):
    """At most `max_tokens` tokens, the least recently used out first."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._root: _Node[T] = _Node(np.empty(0, np.int32), None)
        self._clock = 0
        self.num_tokens = 0

    def clear(self) -> None:
        """Forget everything."""
        stack = [*self._root.children.values()]
        while stack:
            node = stack.pop()
            stack += node.children.values()
            _free(node)
        self._root.children = {}
        self.num_tokens = 0

    def match(self, tokens: Tokens) -> tuple[int, list[T]]:
        """The longest cached prefix of `tokens`: its length and its pieces in order."""
        self._clock += 1
        length = 0
        runs: list[T] = []
        for _, node, common in self._walk(tokens):
            node.last_used = self._clock
            assert node.run is not None
            runs.append(node.run.view(0, common))
            length += common
        return length, runs

    def insert(self, tokens: Tokens, read: Callable[[int, int], T]) -> None:
        """Keep `tokens`; `read(start, stop)` gives the part that is not there yet, to keep."""
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
        child = _Node(tokens[length:].copy(), read(length, len(tokens)), self._clock)
        node.children[int(tokens[length])] = child
        self.num_tokens += len(child.tokens)
        if self.num_tokens > self.max_tokens:
            self.shrink(int(self.max_tokens * KEEP_SHARE))

    def _walk(self, tokens: Tokens) -> Iterator[tuple[_Node[T], _Node[T], int]]:
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

    def shrink(self, max_tokens: int) -> None:
        """Forget the least recently used until it holds at most so many tokens."""
        while self.num_tokens > max_tokens:
            for parent, leaf in sorted(self._leaves(), key=lambda pair: pair[1].last_used):
                if self.num_tokens <= max_tokens:
                    return
                del parent.children[int(leaf.tokens[0])]
                self.num_tokens -= len(leaf.tokens)
                _free(leaf)

    def _split(self, parent: _Node[T], node: _Node[T], at: int) -> _Node[T]:
        """Put the first `at` tokens of `node` into a node between it and its parent, and give that back."""
        assert node.run is not None
        upper = _Node(node.tokens[:at], node.run.copy(0, at))
        upper.children[int(node.tokens[at])] = node
        parent.children[int(node.tokens[0])] = upper
        node.tokens, node.run = node.tokens[at:], node.run.copy(at, len(node.run))
        return upper

    def _leaves(self) -> Iterator[tuple[_Node[T], _Node[T]]]:
        """Each with its parent."""
        stack = [self._root]
        while stack:
            parent = stack.pop()
            for node in parent.children.values():
                if node.children:
                    stack.append(node)
                else:
                    yield parent, node


def _free(node: _Node[T]) -> None:
    assert node.run is not None
    node.run.free()
