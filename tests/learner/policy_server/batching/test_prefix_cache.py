import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trieline.common.prefix import common_prefix
from trieline.learner.policy_server.batching.prefix_cache import PrefixCache
from trieline.learner.policy_server.cpu.kv_store import KVRun

Cache = PrefixCache[KVRun]

# Few letters, so that sequences share prefixes, split nodes and extend each other.
SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), max_size=25)


def put(cache: Cache, tokens: list[int]) -> None:
    """As keys and values of a token stand the token itself and its position."""
    row = torch.tensor(tokens, dtype=torch.float32).view(1, 1, -1, 1)
    places = torch.arange(len(tokens), dtype=torch.float32).view(1, 1, -1, 1)
    array = np.array(tokens, np.int32)
    cache.insert(array, KVRun(keys=row, values=places).copy)


def found(cache: Cache, tokens: list[int]) -> tuple[list[float], list[float]]:
    length, runs = cache.match(np.array(tokens, np.int32))
    keys = [value for run in runs for value in run.keys.flatten().tolist()]
    values = [value for run in runs for value in run.values.flatten().tolist()]
    assert len(keys) == length
    return keys, values


@settings(deadline=None)
@given(inserted=SEQUENCES, asked=SEQUENCES)
def test_the_longest_inserted_prefix_is_found_with_its_keys_and_values(
    inserted: list[list[int]], asked: list[list[int]]
) -> None:
    cache = Cache(10_000)
    for tokens in inserted:
        put(cache, tokens)
    for tokens in asked + inserted:
        longest = max((common_prefix(np.array(one), np.array(tokens)) for one in inserted), default=0)
        keys, values = found(cache, tokens)
        assert keys == tokens[:longest]
        assert values == list(range(longest))
    assert cache.num_tokens == len({tuple(one[: n + 1]) for one in inserted for n in range(len(one))})


@settings(max_examples=50, deadline=None)
@given(inserted=SEQUENCES)
def test_the_budget_holds_and_what_is_left_is_right(inserted: list[list[int]]) -> None:
    cache = Cache(15)
    for tokens in inserted:
        put(cache, tokens)
        assert cache.num_tokens <= 15
        keys, _ = found(cache, tokens)
        assert keys == tokens[: len(keys)]


def test_the_least_recently_used_goes_first() -> None:
    cache = Cache(20)
    put(cache, [1] * 8)
    put(cache, [2] * 8)
    found(cache, [1] * 8)
    put(cache, [3] * 4)
    assert len(found(cache, [1] * 8)[0]) == 8
    put(cache, [4] * 6)
    assert len(found(cache, [2] * 8)[0]) == 0
    assert len(found(cache, [1] * 8)[0]) == 8


def test_cleared_is_empty() -> None:
    cache = Cache(20)
    put(cache, [1, 2])
    cache.clear()
    assert found(cache, [1, 2]) == ([], [])
    assert cache.num_tokens == 0


def test_too_long_for_the_budget_is_not_kept() -> None:
    cache = Cache(3)
    put(cache, [1, 2, 3, 4])
    assert cache.num_tokens == 0
