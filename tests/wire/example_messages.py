"""One message of each kind, with every field set. As a program it records their bytes:

    python -m tests.wire.example_messages tests/wire/data/messages

Each file holds the frames of one message: their number, the length of each (4 bytes, little endian), then all
of them one after the other. What is recorded stays: bytes of an older version must read for ever.
"""

import struct
import sys
from pathlib import Path

import numpy as np

from tests.wire.test_tree import with_later_columns
from trieline.wire.codec import encode
from trieline.wire.messages import (
    Acknowledge,
    ActorGoodbye,
    ActorHeartbeat,
    ActorHello,
    Assignment,
    AssignmentFailed,
    Chunk,
    ChunkRequest,
    Completion,
    GenerateRefusal,
    GenerateRequest,
    Grant,
    LatestRequest,
    Reject,
    Sampling,
    ServerStatus,
    StatusRequest,
    Stop,
    TreeDelivery,
    WeightsAnnouncement,
    WeightsLoaded,
)


def int32(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array(values, np.int32)


def float32(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array(values, np.float32)


SAMPLING = Sampling(max_tokens=8, temperature=0.5, top_p=0.9, top_k=5, stop_ids=(2,), seed=11)
EXAMPLES = {
    "actor_hello": ActorHello(actor_id="a-1", capacity=3, episodes=8),
    "actor_heartbeat": ActorHeartbeat(
        actor_id="a-1", running_episodes=7, open_assignments=[4, 5], capacity=3, episodes=8
    ),
    "actor_goodbye": ActorGoodbye(actor_id="a-1"),
    "assignment_failed": AssignmentFailed(actor_id="a-1", assignment_id=5, reason="too large"),
    "tree": TreeDelivery(
        actor_id="a-1", sequence_number=3, assignment_id=4, tree=with_later_columns(), run_id="run"
    ),
    "grant": Grant(
        assignments=[
            Assignment(assignment_id=4, env_id="me/Task-v0", seed=9, level=2, group_size=2, task_id="t")
        ],
        run_id="run",
        max_message_bytes=1 << 26,
    ),
    "acknowledge": Acknowledge(sequence_numbers=[3, 4]),
    "reject": Reject(sequence_number=3, reason="no tree"),
    "stop": Stop(reason="all steps are done"),
    "generate": GenerateRequest(request_id=1, prompt=int32(5, 6, 7), sampling=SAMPLING),
    # As many tokens as make an array that is a frame of its own.
    "generate.long": GenerateRequest(
        request_id=2, prompt=np.arange(4096, dtype=np.int32), sampling=Sampling()
    ),
    "completion": Completion(
        request_id=1,
        token_ids=int32(1, 2),
        logprobs=float32(-1, -2),
        entropies=float32(1, 0.5),
        policy_versions=int32(4, 5),
        finish_reason="stop",
    ),
    "generate_refusal": GenerateRefusal(request_id=1, kind="overloaded", reason="200 wait"),
    "status_request": StatusRequest(request_id=6),
    "server_status": ServerStatus(
        request_id=6,
        policy_version=5,
        running=1,
        waiting=2,
        vocab_size=49_152,
        max_context=8192,
        tokens_generated=1234,
        dtype="bfloat16",
    ),
    "weights": WeightsAnnouncement(
        policy_version=5, num_bytes=10, crc32=99, path="/run/w", publisher_start=1, modified_ns=2
    ),
    "latest": LatestRequest(server_id="s-1"),
    "chunk_request": ChunkRequest(server_id="s-1", policy_version=5, offset=4, num_bytes=6),
    "chunk": Chunk(policy_version=5, offset=4, data=np.arange(6, dtype=np.uint8)),
    "weights_loaded": WeightsLoaded(server_id="s-1", policy_version=5, seconds=0.25, publisher_start=1),
}


def record(folder: Path) -> None:
    for name, message in EXAMPLES.items():
        frames = [bytes(frame) for frame in encode(message)]
        head = struct.pack(f"<{1 + len(frames)}I", len(frames), *map(len, frames))
        (folder / f"{name}.frames").write_bytes(head + b"".join(frames))


if __name__ == "__main__":
    record(Path(sys.argv[1]))
