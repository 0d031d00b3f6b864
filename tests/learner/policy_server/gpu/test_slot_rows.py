"""No slot is lost, none is given to two, and what is kept makes room."""

from collections import Counter

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trieline.common.prefix import common_prefix
from trieline.learner.policy_server.batching.sequence import Sequence
from trieline.learner.policy_server.gpu.slot_rows import SlotRows
from trieline.wire.messages import GenerateRequest, Sampling

KV_TOKENS = 40
# Prompts of few letters that share prefixes; what is sampled is a letter of its own.
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["place", "remember", "remove", "forget"]),
        st.lists(st.integers(0, 1), min_size=1, max_size=14),
        st.integers(1, 8),
    ),
    max_size=40,
)


def sequence_of(number: int, prompt: list[int], new: int) -> Sequence:
    request = GenerateRequest(
        request_id=number, prompt=np.array(prompt, np.int32), sampling=Sampling(max_tokens=new)
    )
    return Sequence.start((b"", number), request, None, None)


def expect_whole(rows: SlotRows, kept: list[tuple[int, ...]]) -> None:
    """Slots are held by those that say so, and by nobody else; of others only what is kept is shared."""
    pool = rows.pool
    held = Counter[int]()
    for sequence in rows:
        slots = rows.slots(sequence)
        assert len(set(slots.tolist())) == len(slots) == sequence.need
        np.testing.assert_array_equal(rows.table_RC[sequence.row, : len(slots)].numpy(), slots)
        held.update(slots.tolist())
    for tokens in kept:
        _, runs = rows.prefixes.match(np.array(tokens, np.int32))
        assert all((pool._holders[run.slots] > 0).all() for run in runs)
    busy = int((pool._holders > 0).sum())
    assert pool.num_free + busy == KV_TOKENS
    assert int(pool._holders.sum()) == sum(held.values()) + rows.prefixes.num_tokens
    assert 0 not in held


@settings(deadline=None, max_examples=60)
@given(steps=STEPS)
def test_slots_are_accounted_for(steps: list[tuple[str, list[int], int]]) -> None:
    rows = SlotRows(torch.device("cpu"), max_rows=3, max_context=24, kv_tokens=KV_TOKENS, prefix_tokens=20)
    kept: list[tuple[int, ...]] = []
    for number, (what, prompt, new) in enumerate(steps):
        running = list(rows)
        if what == "place":
            sequence = sequence_of(number, prompt, new)
            if rows.place(sequence, 0):
                sequence.filled = sequence.length  # as if it had been read
            else:
                assert running, "alone, every request has room"
        elif what == "remember" and running:
            sequence = running[new % len(running)]
            rows.remember(sequence, sequence.length)
            kept.append(tuple(sequence.tokens[: sequence.length].tolist()))
        elif what == "remove" and running:
            rows.remove(running[new % len(running)])
        elif what == "forget":
            rows.forget()
        expect_whole(rows, kept)
    rows.clear()
    assert rows.pool.num_free == KV_TOKENS


def test_a_kept_prompt_is_shared_and_not_copied() -> None:
    rows = SlotRows(torch.device("cpu"), max_rows=4, max_context=24, kv_tokens=KV_TOKENS, prefix_tokens=20)
    first, second = sequence_of(0, [1] * 10, 4), sequence_of(1, [1] * 8 + [0] * 2, 4)
    assert rows.place(first, 0)
    first.filled = 10
    rows.remember(first, 10)
    assert rows.place(second, 0)
    assert second.filled == common_prefix(first.tokens[:10], second.tokens[:10]) == 8
    np.testing.assert_array_equal(rows.slots(first)[:8], rows.slots(second)[:8])
    assert rows.pool.num_free == KV_TOKENS - 14 - 6
