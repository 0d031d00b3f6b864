"""Texts arrive in vector environments as they were sent, whatever is in them."""

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Text as GymnasiumText
from gymnasium.spaces import Tuple
from gymnasium.spaces.utils import is_space_dtype_shape_equiv
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.vector.utils import batch_differing_spaces, create_shared_memory
from hypothesis import given
from hypothesis import strategies as st

from trieline.envs.text_space import SharedTexts, Text

# Gymnasium annotates them for the spaces that it knows.
read_from_shared_memory: Any = gymnasium.vector.utils.read_from_shared_memory
write_to_shared_memory: Any = gymnasium.vector.utils.write_to_shared_memory

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=()), max_size=30)
STRANGE = ["", "\x00\x00", "\ud83d", "日本語 🙂", "a" * 64]


class Echo(gymnasium.Env[str, str]):
    """Says what it hears."""

    def __init__(self, *, max_length: int = 64) -> None:
        self.observation_space = Text(max_length)
        self.action_space = Text(64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return f"seed {seed} ß🙂", {"task_id": str(seed)}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return str(action), 0.0, False, False, {"task_id": "?"}


@given(ANY_TEXT)
def test_contains_any_unicode_up_to_the_length(text: str) -> None:
    assert text in Text(30)
    assert (text + "x" * 31) not in Text(30)


def test_contains_nothing_but_texts() -> None:
    assert not any(value in Text(9) for value in (None, 3, b"abc", ["a"]))


def test_samples_are_short_members_and_repeat_with_the_seed() -> None:
    first, second = Text(1_000_000, seed=5), Text(1_000_000, seed=5)
    samples = [first.sample() for _ in range(200)]
    assert samples == [second.sample() for _ in range(200)]
    assert all(text in first and len(text) <= 16 for text in samples)
    assert len(set(samples)) > 100
    assert all(Text(3, seed=1).sample() in Text(3) for _ in range(20))


def test_space_survives_pickle_and_copy() -> None:
    space = Text(40, seed=3)
    for other in (pickle.loads(pickle.dumps(space)), copy.deepcopy(space)):
        assert other == space
        assert other.sample() == copy.deepcopy(space).sample()
    assert Text(40) != Text(41)


def test_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="mask"):
        Text(5).sample(mask=(3, None))


@given(st.lists(ANY_TEXT, min_size=1, max_size=4))
def test_shared_memory_keeps_every_text(texts: list[str]) -> None:
    space = Text(30)
    memory = create_shared_memory(space, n=len(texts))
    view = read_from_shared_memory(space, memory, n=len(texts))
    for index, text in enumerate(texts):
        write_to_shared_memory(space, index, "x" * 30, memory)
        write_to_shared_memory(space, index, text, memory)
    assert isinstance(view, SharedTexts)
    assert list(view) == texts
    assert copy.deepcopy(view) == tuple(texts)


def test_shared_memory_is_a_live_view() -> None:
    space = Text(8)
    memory = create_shared_memory(space, n=2)
    view = read_from_shared_memory(space, memory, n=2)
    before = copy.deepcopy(view)
    write_to_shared_memory(space, 1, "later", memory)
    assert (before, view[1], view[:]) == (("", ""), "later", ("", "later"))


def test_shared_memory_refuses_too_long_a_text() -> None:
    space = Text(8)
    with pytest.raises(ValueError, match="at most 8 characters, got 9"):
        write_to_shared_memory(space, 0, "123456789", create_shared_memory(space, n=1))


def test_differing_spaces_are_batched() -> None:
    batch = batch_differing_spaces([Text(3), Text(5)])
    assert ("abc", "abcde") in batch
    assert ("abcd", "abcde") not in batch


VECTORS = [SyncVectorEnv, AsyncVectorEnv, partial(AsyncVectorEnv, shared_memory=False)]


@pytest.mark.parametrize("make", VECTORS)
@pytest.mark.parametrize("lengths", [(64, 64), (80, 64, 72)])
def test_environments_may_differ_in_length(make: Callable[..., Any], lengths: tuple[int, ...]) -> None:
    envs = make([partial(Echo, max_length=n) for n in lengths], observation_mode="different")
    try:
        envs.reset(seed=7)
        assert envs.observation_space == Tuple([Text(n) for n in lengths])
        for said in (tuple(STRANGE[: len(lengths)]), ("🙂" * 64,) * len(lengths), ("",) * len(lengths)):
            assert tuple(envs.step(said)[0]) == said
    finally:
        envs.close()


def test_a_text_that_the_first_environment_has_no_room_for_is_refused() -> None:
    memory = create_shared_memory(Text(3), n=2)
    write_to_shared_memory(Text(5), 1, "abc", memory)
    with pytest.raises(ValueError, match="at most 3 characters, got 4"):
        write_to_shared_memory(Text(5), 1, "abcd", memory)
    assert list(read_from_shared_memory(Text(3), memory, n=2)) == ["", "abc"]


def test_only_texts_of_this_kind_go_into_one_batch() -> None:
    assert is_space_dtype_shape_equiv(Text(3), Text(5))
    assert not is_space_dtype_shape_equiv(Text(3), GymnasiumText(3))
    assert not is_space_dtype_shape_equiv(GymnasiumText(3), Text(3))


@pytest.mark.parametrize("make", VECTORS)
def test_vector_environments_echo_strange_texts(make: Callable[..., Any]) -> None:
    envs = make([Echo] * len(STRANGE))
    try:
        observations, _ = envs.reset(seed=7)
        assert tuple(observations) == tuple(f"seed {7 + i} ß🙂" for i in range(len(STRANGE)))
        assert tuple(envs.step(STRANGE)[0]) == tuple(STRANGE)
        assert tuple(envs.step(STRANGE[::-1])[0]) == tuple(STRANGE[::-1])
    finally:
        envs.close()


@pytest.mark.parametrize(
    "env_id", ["trieline/Arithmetic-v0", "trieline/GuessNumber-v0", "trieline/FrozenLake-v0"]
)
def test_sync_and_async_vectors_say_the_same(env_id: str) -> None:
    played = [_play(env_id, mode, {}) for mode in ("sync", "async")]
    assert played[0] == played[1]


def test_spawned_workers_say_the_same() -> None:
    env_id = "trieline.envs:trieline/GuessNumber-v0"
    assert _play(env_id, "async", {"context": "spawn"}) == _play(env_id, "sync", {})


def _play(env_id: str, mode: str, vector_kwargs: dict[str, Any]) -> list[Any]:
    envs = gymnasium.make_vec(env_id, num_envs=2, vectorization_mode=mode, vector_kwargs=vector_kwargs)
    try:
        observations, info = envs.reset(seed=3)
        seen = [observations, list(info["task_id"])]
        for action in ("left", "\ud800", "7"):
            observations, rewards, terminated, _, _ = envs.step((action, action))
            seen += [observations, np.asarray(rewards).tolist(), np.asarray(terminated).tolist()]
        return seen
    finally:
        envs.close()
