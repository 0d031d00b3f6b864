from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trees import long_tree, random_tree
from tests.wire.test_tree import two_rollouts
from trieline.wire import codec
from trieline.wire.codec import MAX_FRAMES, MAX_HEADER_BYTES, SMALL_BYTES, decode, encode, num_bytes
from trieline.wire.errors import MessageError
from trieline.wire.messages import (
    ActorHello,
    ActorToLearner,
    ActorToServer,
    Chunk,
    Completion,
    GenerateRequest,
    LearnerToActor,
    LearnerToServer,
    Sampling,
    ServerToActor,
    ServerToLearner,
    TreeDelivery,
)
from trieline.wire.tree import TrajectoryTree

MAX_BYTES = 1 << 20
UNIONS = (ActorToLearner, LearnerToActor, ActorToServer, ServerToActor, ServerToLearner, LearnerToServer)


def delivery(tree: TrajectoryTree) -> TreeDelivery:
    return TreeDelivery(actor_id="actor", sequence_number=3, assignment_id=7, tree=tree)


def as_bytes(frames: list[Any]) -> list[bytes]:
    return [bytes(frame) for frame in frames]


def assert_same_tree(left: TrajectoryTree, right: TrajectoryTree) -> None:
    for field in msgspec.structs.fields(TrajectoryTree):
        a, b = getattr(left, field.name), getattr(right, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), field.name
        else:
            assert a == b, field.name


@given(seed=st.integers(0, 2**32 - 1), later_columns=st.booleans())
def test_trees_come_back_as_they_went(seed: int, later_columns: bool) -> None:
    tree = random_tree(np.random.default_rng(seed), later_columns=later_columns)
    back = decode(as_bytes(encode(delivery(tree))), ActorToLearner, max_bytes=MAX_BYTES)
    assert isinstance(back, TreeDelivery)
    assert (back.actor_id, back.sequence_number, back.assignment_id) == ("actor", 3, 7)
    assert_same_tree(back.tree, tree)
    back.tree.validate()


@given(frames=st.lists(st.binary(max_size=64), max_size=MAX_FRAMES + 1), union=st.sampled_from(UNIONS))
def test_garbage_raises_message_errors_only(frames: list[bytes], union: Any) -> None:
    with pytest.raises(MessageError):
        decode(frames, union, max_bytes=MAX_BYTES)


@given(data=st.data(), seed=st.integers(0, 50))
def test_a_damaged_tree_is_a_message_error_or_some_tree(data: st.DataObject, seed: int) -> None:
    frames = as_bytes(encode(delivery(random_tree(np.random.default_rng(seed)))))
    which = data.draw(st.integers(0, len(frames) - 1))
    damage = data.draw(st.sampled_from(["flip", "cut", "drop", "double"]))
    if damage == "drop":
        del frames[which]
    elif damage == "double":
        frames.insert(which, frames[which])
    elif damage == "cut":
        frames[which] = frames[which][: data.draw(st.integers(0, len(frames[which]) - 1))]
    else:
        at = data.draw(st.integers(0, len(frames[which]) - 1))
        value = data.draw(st.integers(0, 255))
        frames[which] = frames[which][:at] + bytes([value]) + frames[which][at + 1 :]
    try:
        decode(frames, ActorToLearner, max_bytes=MAX_BYTES)
    except MessageError:
        return
    assert damage == "flip"


def test_columns_that_a_tree_does_not_have_are_not_sent() -> None:
    plain = msgspec.msgpack.decode(bytes(encode(delivery(two_rollouts()))[0]))
    columns = plain["tree"].keys()
    assert "token_ids" in columns
    assert not columns & {"leaf_groups", "mask_index", "mask_runs", "edge_sources", "edge_kinds", "info"}


def test_arrays_are_copied_neither_way() -> None:
    tree = long_tree(np.random.default_rng(0), num_tokens=10_000)
    frames = encode(delivery(tree))
    assert any(np.shares_memory(np.frombuffer(f, np.uint8), tree.token_ids) for f in frames[1:])
    received = [np.frombuffer(f, np.uint8).copy() for f in frames]
    back = decode([r.data for r in received], TreeDelivery, max_bytes=MAX_BYTES)
    assert any(np.shares_memory(r, back.tree.token_ids) for r in received)
    with pytest.raises(ValueError, match="read-only"):
        back.tree.token_ids[0] = 1


def test_unaligned_frames_are_read_all_the_same() -> None:
    message = GenerateRequest(request_id=1, prompt=np.arange(5, dtype=np.int32), sampling=Sampling())
    header, prompt = as_bytes(encode(message))
    shifted = memoryview(b"x" + prompt)[1:]
    back = decode([header, shifted], ActorToServer, max_bytes=MAX_BYTES)
    assert back.prompt.flags.aligned
    assert back.prompt.tolist() == [0, 1, 2, 3, 4]


def test_empty_and_strided_arrays() -> None:
    empty = Chunk(policy_version=1, offset=0, data=np.zeros(0, np.uint8))
    assert len(decode(as_bytes(encode(empty)), LearnerToServer, max_bytes=MAX_BYTES).data) == 0
    strided = Chunk(policy_version=1, offset=0, data=np.arange(10, dtype=np.uint8)[::3])
    back = decode(as_bytes(encode(strided)), LearnerToServer, max_bytes=MAX_BYTES)
    assert back.data.tolist() == [0, 3, 6, 9]


@given(st.lists(st.sampled_from([0, 1, 3, 1000, 4095, 4096, 5000]), min_size=3, max_size=3))
def test_small_arrays_are_packed_and_large_ones_are_not(lengths: list[int]) -> None:
    columns = [np.arange(length, dtype=np.int32) for length in lengths]
    completion = Completion(
        request_id=1,
        token_ids=columns[0],
        logprobs=columns[1].astype(np.float32),
        entropies=columns[2].astype(np.float32),
        policy_versions=columns[0],
        finish_reason="stop",
    )
    frames = as_bytes(encode(completion))
    large = [length for length in (*lengths, lengths[0]) if 4 * length >= SMALL_BYTES]
    assert len(frames) == 1 + len(large) + (len(large) < 4)
    back = decode(frames, ServerToActor, max_bytes=MAX_BYTES)
    for name in ("token_ids", "logprobs", "entropies", "policy_versions"):
        assert np.array_equal(getattr(back, name), getattr(completion, name))


def test_foreign_byte_order_is_sent_in_ours() -> None:
    prompt = np.array([1, 2, 3], ">i4")
    frames = as_bytes(encode(GenerateRequest(request_id=1, prompt=prompt, sampling=Sampling())))
    assert decode(frames, ActorToServer, max_bytes=MAX_BYTES).prompt.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.zeros(3, np.int64), "array of <i4, got"),
        (np.zeros(3, np.float32), "array of <i4, got"),
        (np.zeros((3, 1), np.int32), "one-dimensional"),
    ],
)
def test_dtype_and_dimensions_are_those_of_the_annotation(array: Any, complaint: str) -> None:
    frames = as_bytes(encode(GenerateRequest(request_id=1, prompt=array, sampling=Sampling())))
    with pytest.raises(MessageError, match=complaint):
        decode(frames, ActorToServer, max_bytes=MAX_BYTES)


def test_bounds_come_before_decoding() -> None:
    frames = as_bytes(encode(delivery(long_tree(np.random.default_rng(0), num_tokens=1000))))
    with pytest.raises(MessageError, match=f"at most {num_bytes(frames) - 1} bytes, got {num_bytes(frames)}"):
        decode(frames, ActorToLearner, max_bytes=num_bytes(frames) - 1)
    with pytest.raises(MessageError, match="frames, got 0"):
        decode([], ActorToLearner, max_bytes=MAX_BYTES)
    with pytest.raises(MessageError, match=f"frames, got {MAX_FRAMES + 1}"):
        decode([b"x"] * (MAX_FRAMES + 1), ActorToLearner, max_bytes=MAX_BYTES)
    with pytest.raises(MessageError, match="header of at most"):
        decode([bytes(MAX_HEADER_BYTES + 1)], ActorToLearner, max_bytes=2 * MAX_HEADER_BYTES)


@pytest.mark.parametrize(
    "header",
    [
        b"\xdd\xff\xff\xff\xff",  # four thousand million elements that are not there
        b"\x91" * 100_000,  # nesting without end
        b"\x81\xa4type\xa5bogus",
        b"\x81\xa4type\xabactor_hello",
        b"\x82\xa4type\xabactor_hello\xa8actor_id\xa1\xff",
        msgspec.msgpack.encode({"type": "actor_hello", "actor_id": "a" * 257, "capacity": 1}),
        msgspec.msgpack.encode({"type": "actor_hello", "actor_id": "a", "capacity": 0}),
    ],
)
def test_hostile_headers(header: bytes) -> None:
    with pytest.raises(MessageError, match="expected ActorHello or"):
        decode([header], ActorToLearner, max_bytes=MAX_BYTES)


def test_fields_of_a_later_version_are_passed_over() -> None:
    header = msgspec.msgpack.encode({"type": "actor_hello", "actor_id": "a", "capacity": 1, "color": "red"})
    assert decode([header], ActorToLearner, max_bytes=MAX_BYTES) == ActorHello(actor_id="a", capacity=1)


def test_a_frame_too_many_or_too_few() -> None:
    request = GenerateRequest(request_id=1, prompt=np.zeros(2, np.int32), sampling=Sampling())
    header, packed = as_bytes(encode(request))
    for frames, complaint in (
        ([header], "at least 8 bytes of small arrays, got 0"),
        ([header, packed[:-1]], "at least 8 bytes of small arrays, got 7"),
        ([header, packed + b"x"], "expected 8 bytes of small arrays, got 9"),
        ([header, b"", packed], "expected 2 frames as the header says, got 3"),
    ):
        with pytest.raises(MessageError, match=complaint):
            decode(frames, ActorToServer, max_bytes=MAX_BYTES)
    long = GenerateRequest(request_id=1, prompt=np.zeros(SMALL_BYTES, np.int32), sampling=Sampling())
    header, prompt = as_bytes(encode(long))
    for frames, complaint in (
        ([header], f"expected frame 1 of {4 * SMALL_BYTES} bytes, got 0"),
        ([header, prompt[:-4]], f"got {4 * SMALL_BYTES - 4}"),
        ([header, prompt, b""], "expected 2 frames as the header says, got 3"),
    ):
        with pytest.raises(MessageError, match=complaint):
            decode(frames, ActorToServer, max_bytes=MAX_BYTES)


def test_what_is_no_array_is_not_encoded() -> None:
    completion = Completion(
        request_id=1,
        token_ids={1, 2, object()},  # type: ignore[arg-type]
        logprobs=np.zeros(1, np.float32),
        entropies=np.zeros(1, np.float32),
        policy_versions=np.zeros(1, np.int32),
        finish_reason="stop",
    )
    with pytest.raises(MessageError, match="got object"):
        codec.encode(completion)
