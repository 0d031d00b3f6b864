"""Every message that crosses a socket, by link. Payloads are msgpack, decoded by type.

Fields are only ever appended, with a default. Arrays travel outside the header, as raw frames after it, in
the order in which the record lists them (see `codec`). A message of an unknown kind is an error.
"""

from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from trieline.common.arrays import Float32, Int32
from trieline.common.numbers import Count
from trieline.wire.tree import NO_COLUMN, TrajectoryTree

PROTOCOL_VERSION = 3

Name = Annotated[str, msgspec.Meta(max_length=256)]
# Characters of a note.
MAX_TEXT = 4096
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
StopString = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
# The schemas of fifty tools have some 100,000 characters.
Grammar = Annotated[str, msgspec.Meta(max_length=256 * 1024)]
Purpose = Literal["train", "evaluate", "demonstrate"]
"""What an assignment's tree is for. Only those to train on are journalled; demonstrations are a warm start's,
and evaluations are never trained on."""


# ---- trajectories: actor (DEALER) to learner (ROUTER) ------------------------------------------------------


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """One credit: the task for which the actor owes one tree."""

    assignment_id: Count
    env_id: Name
    seed: Count
    level: int | None = None
    group_size: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 8
    """Rollouts of the task, forks in the middle of an episode not counted."""
    task_id: Name | None = None
    """That very task of the environment. None: the environment draws one by the seed."""
    split: Name | None = None
    """Of the environment's tasks, where it has splits. None: the one that it is made for."""
    purpose: Purpose = "train"
    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """Sampled at. None: as the actor is told for training."""


class ActorHello(msgspec.Struct, frozen=True, kw_only=True, tag="actor_hello"):
    """First word of an actor. `actor_id` is unique to this start of the process, unless it is `lasting`."""

    actor_id: Name
    capacity: Annotated[int, msgspec.Meta(ge=1, le=100_000)]
    """Assignments that the actor wants to hold at once."""
    protocol: int = PROTOCOL_VERSION
    episodes: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0
    """Episodes that it plays at once: it is granted as many groups as fill them, and one more for the gaps.
    0: it does not say, and `capacity` alone counts."""
    lasting: bool = False
    """The id outlives the process, which may have work of before a restart: it is told at once by an empty
    grant whose run this is."""


class ActorHeartbeat(msgspec.Struct, frozen=True, kw_only=True, tag="actor_heartbeat"):
    """The actor lives and still works on its assignments."""

    actor_id: Name
    running_episodes: Count = 0
    open_assignments: Annotated[list[Count], msgspec.Meta(max_length=200_000)] = []
    """Granted and not yet acknowledged. What is missing here for long was lost, and goes to others."""
    capacity: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0
    """As in ActorHello, so that a learner that has just started learns it from any heartbeat."""
    episodes: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0
    """As in ActorHello."""


class ActorGoodbye(msgspec.Struct, frozen=True, kw_only=True, tag="actor_goodbye"):
    """The actor stops; its open assignments can go to others."""

    actor_id: Name
    stuck: bool = False
    """It stops because its episodes hang, and one of its open assignments may be why."""


class AssignmentFailed(msgspec.Struct, frozen=True, kw_only=True, tag="assignment_failed"):
    """No tree will ever come of this assignment, not even a broken one (it was too large to send, say)."""

    actor_id: Name
    assignment_id: Count
    reason: Text
    run_id: Name = ""
    """As in the Grant of the assignment. "": it does not say, and means the run that hears it."""


class TreeDelivery(msgspec.Struct, frozen=True, kw_only=True, tag="tree"):
    """One finished tree. (actor_id, sequence_number) names it for acknowledgement and de-duplication."""

    actor_id: Name
    sequence_number: Count
    assignment_id: Count
    tree: TrajectoryTree
    run_id: Name = ""
    """As in the Grant of the assignment: every run counts its assignments from 0, so their ids don't tell."""
    purpose: Purpose = "train"
    """Of the assignment. After a restart nobody else knows it any more."""


class Grant(msgspec.Struct, frozen=True, kw_only=True, tag="grant"):
    """Credits."""

    assignments: Annotated[list[Assignment], msgspec.Meta(max_length=10_000)]
    run_id: Name = ""
    """Of the run that wants the trees; a resumed run keeps its own."""
    max_message_bytes: Count = 0
    """The learner takes no larger tree; 0: it does not say."""


class Acknowledge(msgspec.Struct, frozen=True, kw_only=True, tag="acknowledge"):
    """These trees are safe, those to train on in the journal: the actor may forget them."""

    sequence_numbers: Annotated[list[Count], msgspec.Meta(max_length=10_000)]


class Reject(msgspec.Struct, frozen=True, kw_only=True, tag="reject"):
    """This tree was refused and will never be accepted; the actor counts it and goes on."""

    sequence_number: Count
    reason: Text


class Stop(msgspec.Struct, frozen=True, kw_only=True, tag="stop"):
    """Training is over: finish nothing more, say goodbye, exit with 0."""

    reason: Text


ActorToLearner = ActorHello | ActorHeartbeat | ActorGoodbye | AssignmentFailed | TreeDelivery
LearnerToActor = Grant | Acknowledge | Reject | Stop


# ---- generate: actor (DEALER) to policy server (ROUTER) ----------------------------------------------------


class Sampling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How to sample. Temperature 0 is greedy; log-probability and entropy are then those of temperature 1."""

    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 64
    temperature: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    top_k: Count = 0
    """0: no limit."""
    stop_ids: Annotated[tuple[Count, ...], msgspec.Meta(max_length=64)] = ()
    """Sampling ends after one of these, which is part of the completion."""
    seed: Count = 0
    stop: Annotated[tuple[StopString, ...], msgspec.Meta(max_length=16)] = ()
    """Sampling ends with the token by which the completion's text first holds one of these, which stays part
    of the completion. Special tokens are spelled by their names in that text."""
    json_schema: Grammar = ""
    """The completion is JSON that this schema allows, and then one of `stop_ids`. "": it may be anything."""
    lark: Grammar = ""
    """The completion follows this grammar, in the Lark of llguidance, and then comes one of `stop_ids`. Not
    together with `json_schema`."""
    tell_masks: bool = False
    """Tell, too, which tokens `top_p` and `top_k` left. What a grammar left is told in any case."""


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True, tag="generate"):
    """Ask for one completion of one prompt."""

    request_id: Count
    prompt: Int32
    """[P] token ids."""
    sampling: Sampling


class Completion(msgspec.Struct, frozen=True, kw_only=True, tag="completion", omit_defaults=True):
    """K sampled tokens, K >= 1. The last three columns are those of a tree (`TrajectoryTree`)."""

    request_id: Count
    token_ids: Int32
    logprobs: Float32
    """[K] nats, under the distribution really sampled from."""
    entropies: Float32
    """[K] nats, of that distribution; all NaN: not known to this server."""
    policy_versions: Int32
    """[K]"""
    finish_reason: Literal["stop", "length"]
    stop: Annotated[str, msgspec.Meta(max_length=256)] = ""
    """The one of `Sampling.stop` that ended it; "": a stop id did, or the length."""
    mask_index: Int32 = NO_COLUMN
    """[K] the mask under which the token was sampled, -1: none. Empty: no token had one."""
    mask_offsets: Int32 = NO_COLUMN
    """[M + 1] mask m allows the runs `mask_offsets[m]:mask_offsets[m + 1]`."""
    mask_runs: Int32 = NO_COLUMN
    """[2 R] of each run the first token id and the one after its last."""
    entropies_estimated: bool = False
    """They are estimates, from the largest probabilities of each place."""


class GenerateRefusal(msgspec.Struct, frozen=True, kw_only=True, tag="generate_refusal"):
    """`invalid`: never ask again; `overloaded`, `stopping`, `failed`: ask again later."""

    request_id: Count
    kind: Literal["invalid", "overloaded", "stopping", "failed"]
    reason: Text


class Cancel(msgspec.Struct, frozen=True, kw_only=True, tag="cancel"):
    """Nobody waits for this request any more. There is no reply to it, and none is due to the request."""

    request_id: Count


class StatusRequest(msgspec.Struct, frozen=True, kw_only=True, tag="status_request"):
    """Ask a policy server how it is. Also the way to wait until one is up."""

    request_id: Count


class ServerStatus(msgspec.Struct, frozen=True, kw_only=True, tag="server_status"):
    """What a policy server says of itself."""

    request_id: Count
    policy_version: int
    running: Count
    waiting: Count
    vocab_size: Count
    max_context: Count
    tokens_generated: Count
    """Since the start of the server."""
    dtype: Name
    protocol: int = PROTOCOL_VERSION
    engine: Name = "own"
    """What samples: `own`, or an engine of others."""
    entropies: Literal["exact", "estimated", "unknown"] = "exact"
    """What it says of them with its tokens."""


ActorToServer = GenerateRequest | StatusRequest | Cancel


class ServerAlive(msgspec.Struct, frozen=True, kw_only=True, tag="server_alive"):
    """The server works on requests of this peer. Sent to find out, too, whether the peer is still there."""


ServerToActor = Completion | GenerateRefusal | ServerStatus | ServerAlive


# ---- weights: learner (ROUTER) to policy server (DEALER) ---------------------------------------------------


class WeightsAnnouncement(msgspec.Struct, frozen=True, kw_only=True, tag="weights"):
    """A whole version is ready: a safetensors file of `num_bytes`."""

    policy_version: Count
    num_bytes: Count
    crc32: Count
    """Of the whole file."""
    path: Text
    """Where the file is on the learner's machine; read there if it is visible, fetched in chunks if not."""
    publisher_start: Count = 0
    """Tells one start of the learner from the next (nanoseconds since 1970). Within one, the higher version
    is the newer; of another, what came last is, since a learner may resume from an older checkpoint."""
    modified_ns: Count = 0
    """When the file was last written, as of its CRC-32. One of this time and size is the same file."""


class LatestRequest(msgspec.Struct, frozen=True, kw_only=True, tag="latest"):
    """A policy server that came late asks for the newest announcement. Answered by WeightsAnnouncement."""

    server_id: Name


class ChunkRequest(msgspec.Struct, frozen=True, kw_only=True, tag="chunk_request"):
    """Ask for a part of one version's file."""

    server_id: Name
    policy_version: Count
    offset: Count
    num_bytes: Annotated[int, msgspec.Meta(ge=1, le=16 * 1024 * 1024)]


class Chunk(msgspec.Struct, frozen=True, kw_only=True, tag="chunk"):
    """A part of one version's file; empty if the version is gone and a newer one was announced."""

    policy_version: Count
    offset: Count
    data: npt.NDArray[np.uint8]


class WeightsLoaded(msgspec.Struct, frozen=True, kw_only=True, tag="weights_loaded"):
    """A policy server serves this version from now on (also sent every heartbeat)."""

    server_id: Name
    policy_version: Count
    seconds: float
    """From the announcement's arrival to the swap."""
    publisher_start: Count = 0
    """Of the announcement that brought the version; 0 if the server started with it."""


ServerToLearner = LatestRequest | ChunkRequest | WeightsLoaded
LearnerToServer = WeightsAnnouncement | Chunk
