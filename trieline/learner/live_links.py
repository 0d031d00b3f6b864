"""The learner's ends of the links: trees in through the journal, weights out.

A tree is in the journal before it is acknowledged.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from trieline.learner.errors import GLANCE_S, TrainingError
from trieline.learner.intake.accepted import Accepted, run_id_of
from trieline.learner.keeping.weights import WeightsOutbox, outbox_folder
from trieline.wire.codec import InFrame
from trieline.wire.config import EnvConfig, LinksConfig
from trieline.wire.errors import PeerTimeoutError
from trieline.wire.journal import Journal
from trieline.wire.messages import TreeDelivery
from trieline.wire.trajectory_link import TreeReceiver
from trieline.wire.tree_admission import EnvExpectation, Expectation
from trieline.wire.weights_link import WeightsPublisher

log = logging.getLogger(__name__)

# For actors to hear that training is over and to say goodbye.
GOODBYE_S = 5.0


def expectation_of(
    envs: Sequence[EnvConfig],
    links: LinksConfig,
    *,
    vocab_size: int,
    max_positions: int | None,
    max_forks: int | None,
) -> Expectation:
    """What every tree of a run with these settings keeps to."""
    return Expectation(
        envs={
            env.id: EnvExpectation(
                max_context=env.episode.max_context,
                max_windows=env.windows,
                levels=frozenset([*(env.curriculum.levels or [0]), *env.curriculum.eval_levels]),
            )
            for env in envs
        },
        vocab_size=vocab_size,
        max_positions=max_positions,
        max_forks=max_forks,
        max_tree_tokens=links.max_tree_tokens,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Admitted:
    """Which trees are taken, and from whom how many."""

    expectation: Expectation
    newest_version: int
    """The highest that an earlier start may have published."""
    accepted: Accepted
    """By an earlier start."""
    max_task_losses: int | None = None
    """A task over which so many actors were lost is given up. None: none ever is."""
    evaluation_share: float = 1.0
    """Of the actors' episodes, for evaluations while something else waits."""


class LiveLinks:
    """Owns the sockets."""

    def __init__(
        self,
        links: LinksConfig,
        run_dir: Path,
        *,
        journal: Journal,
        admitted: Admitted,
        weights_bytes: int,
        stop: threading.Event,
    ) -> None:
        """Bind the sockets and begin to accept trees.

        The `journal` of `run_dir`, into which they go, stays the caller's.

        Raises:
            AddressError: an address is in use.
            JournalError: the run's id beside the journal can't be written.
        """
        self._stop = stop
        self._outbox: WeightsOutbox | None = None
        self._journal = journal
        self.receiver = TreeReceiver(
            links,
            accept=self._accept,
            expectation=admitted.expectation,
            run_id=run_id_of(run_dir / "journal"),
            already_accepted=admitted.accepted.keys,
            evaluation_share=admitted.evaluation_share,
            max_losses=admitted.max_task_losses,
        )
        self.receiver.newest_version = admitted.newest_version
        self._publisher = WeightsPublisher(links)
        try:
            self.receiver.start()
            self._publisher.start()
            self._outbox = WeightsOutbox(self._publisher, outbox_folder(run_dir, weights_bytes))
        except BaseException:
            self.close()
            raise

    def publish(
        self, policy_version: int, weights: Mapping[str, torch.Tensor], adapter_config: str | None = None
    ) -> None:
        """Announce the weights of a version; `adapter_config` if they are adapters."""
        assert self._outbox is not None, "the links are closed"
        # First: a tree may come as soon as a policy server has them.
        self.receiver.newest_version = max(policy_version, self.receiver.newest_version or 0)
        self._outbox.publish(policy_version, weights, adapter_config)

    def wait_loaded(self, policy_version: int, *, late_s: float, absent_s: float) -> bool:
        """Wait until every live policy server, at least one, serves this version. False: asked to stop.

        Servers get `late_s` from when they came or another one went. While none lives, one may take
        `absent_s` to come back, as at the start.

        Raises:
            TrainingError: one did not in time; names the late ones.
        """
        assert self._outbox is not None, "the links are closed"
        servers, since = frozenset[str](), time.monotonic()
        while not self._stop.is_set():
            try:
                self._outbox.wait_loaded(policy_version, min(GLANCE_S, late_s, absent_s))
            except PeerTimeoutError as error:
                if (live := frozenset(self._publisher.loaded())) != servers:
                    servers, since = live, time.monotonic()
                limit = late_s if servers else absent_s
                if time.monotonic() >= since + limit:
                    msg = f"gave up after {limit:g} s: {error}"
                    raise TrainingError(msg) from error
            else:
                return True
        return False

    def sync_journal(self) -> None:
        """Force every accepted tree to the disk, before a checkpoint counts on it."""
        self._journal.sync()

    def metrics(self) -> dict[str, float]:
        """What the trajectory link has counted since the start."""
        receiver = self.receiver
        return {
            "link/actors": float(len(receiver.actors())),
            "link/actors_set_aside": float(sum(receiver.is_set_aside(i) for i in receiver.actors())),
            "link/lost_actors": float(receiver.lost_actors),
            "link/rejected_trees": float(receiver.rejected),
            "link/duplicate_trees": float(receiver.duplicates),
            "link/malformed_messages": float(receiver.malformed),
            "link/flooded_messages": float(receiver.flooded),
        }

    def stop_actors(self, reason: str) -> None:
        """Tell the actors that training is over, and give them a moment to say goodbye."""
        self.receiver.stop_actors(reason)
        deadline = time.monotonic() + GOODBYE_S
        while self.receiver.actors() and time.monotonic() < deadline:
            time.sleep(0.05)

    def close(self) -> None:
        """Idempotent."""
        self.receiver.close()
        self._publisher.close()
        if self._outbox is not None:
            self._outbox.close()
            self._outbox = None

    def _accept(self, delivery: TreeDelivery, frames: Sequence[InFrame]) -> None:
        # A JournalError ends the receiver, so that nothing is acknowledged that is not safe.
        # Evaluations and demonstrations are not trained on by a step of the run, and are asked for again.
        if delivery.purpose == "train":
            self._journal.append(delivery, frames)
