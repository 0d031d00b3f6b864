"""Messages read as docs/wire.md describes them, as another language would: with msgpack and arrays alone."""

from typing import Any

import msgpack
import numpy as np

TREE_ARRAYS = {
    "parents": "<i4",
    "node_offsets": "<i4",
    "sampled": "|b1",
    "rewards": "<f4",
    "token_ids": "<i4",
    "behavior_logprobs": "<f4",
    "entropies": "<f4",
    "policy_versions": "<i4",
    "leaf_nodes": "<i4",
    "leaf_terminated": "|b1",
    "leaf_groups": "<i4",
    "mask_index": "<i4",
    "mask_offsets": "<i4",
    "mask_runs": "<i4",
    "edge_sources": "<i4",
    "edge_targets": "<i4",
}
ARRAYS = {
    "generate": {"prompt": "<i4"},
    "completion": {
        "token_ids": "<i4",
        "logprobs": "<f4",
        "entropies": "<f4",
        "policy_versions": "<i4",
        "mask_index": "<i4",
        "mask_offsets": "<i4",
        "mask_runs": "<i4",
    },
    "chunk": {"data": "|u1"},
}
SMALL = 16_384


def read_message(frames: list[bytes]) -> dict[str, Any]:
    """The fields of a message, its arrays as arrays."""
    message: dict[str, Any] = msgpack.unpackb(frames[0])
    large = iter(frames[1:])
    is_tree = message["type"] == "tree"
    fields = message["tree"] if is_tree else message
    expected = TREE_ARRAYS if is_tree else ARRAYS.get(message["type"], {})
    packed_at = 0
    for name in [name for name in fields if name in expected]:  # in the order of the header
        dtype, (length,) = fields[name]
        assert dtype == expected[name]
        num_bytes = length * np.dtype(dtype).itemsize
        if num_bytes >= SMALL:
            raw = next(large)
        else:
            raw = frames[-1][packed_at : packed_at + num_bytes]
            packed_at += -(-num_bytes // 8) * 8
        fields[name] = np.frombuffer(raw, dtype)
        assert len(fields[name]) == length
    return message


def sequences(tree: dict[str, Any]) -> list[tuple[list[int], float]]:
    """Tokens and return of each leaf's path."""
    found = []
    for leaf in tree["leaf_nodes"].tolist():
        path: list[int] = []
        node = leaf
        while node >= 0:
            path.insert(0, node)
            node = int(tree["parents"][node])
        offsets = tree["node_offsets"]
        tokens = [int(t) for n in path for t in tree["token_ids"][offsets[n] : offsets[n + 1]]]
        found.append((tokens, float(tree["rewards"][path].sum())))
    return found
