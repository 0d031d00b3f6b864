"""New weights to the policy servers: one safetensors file a version, in memory where there is room.

A file appears by rename. The newest two don't change, so that a server which has just begun to read one can
finish while the next is announced. The third is written over: memory that is freed goes back to the host of a
virtual machine within seconds, and getting 540 MB again took a second where writing them takes 0.2.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from trieline.common.errors import LockError
from trieline.common.owned_folder import OwnedFolder, claim_folder, sweep
from trieline.learner.keeping.weight_file import ADAPTER_KEY, write_weights
from trieline.wire.weights_link import WeightsPublisher

log = logging.getLogger(__name__)

KEPT_VERSIONS = 2
SHARED_MEMORY = Path("/dev/shm")


class WeightsOutbox:
    """Writes versions to a folder and announces them through `publisher`."""

    def __init__(self, publisher: WeightsPublisher, folder: OwnedFolder) -> None:
        self._publisher = publisher
        self._folder = folder
        self._files: list[Path] = []

    def publish(
        self, policy_version: int, weights: Mapping[str, torch.Tensor], adapter_config: str | None = None
    ) -> Path:
        """Write one version and announce it. Returns as soon as the servers can read it.

        `adapter_config`: peft's, of weights that are adapters; it travels in the file.
        """
        path = self._folder.path / f"policy_{policy_version:08d}.safetensors"
        spare = self._files.pop(0) if len(self._files) > KEPT_VERSIONS else None
        metadata = {"policy_version": str(policy_version)}
        if adapter_config is not None:
            metadata[ADAPTER_KEY] = adapter_config
        crc32 = write_weights(path, weights, metadata=metadata, write_over=spare)
        self._publisher.publish(policy_version, path, crc32=crc32)
        self._files.append(path)
        return path

    def wait_loaded(self, policy_version: int, timeout_s: float) -> None:
        """Wait until every live policy server serves this version.

        Raises:
            PeerTimeoutError: one did not in time, or there is none; names the late ones.
        """
        self._publisher.wait_loaded(policy_version, timeout_s)

    def close(self) -> None:
        """Remove the folder; what the servers have loaded stays with them. Idempotent."""
        self._files.clear()
        self._folder.close()


def outbox_folder(run_dir: Path, num_bytes: int) -> OwnedFolder:
    """Where versions of `num_bytes` are written: shared memory if there is ample room, else the run folder.

    Writing 270 MB takes 0.1 s there, and a disk would be kept busy with bytes that nobody needs a step later.

    Raises:
        LockError: another process writes there.
    """
    fallback = run_dir / "weights"
    if SHARED_MEMORY.is_dir():
        of_user = f"trieline-{os.getuid()}"
        # Of learners that were killed; before the room is measured.
        sweep(SHARED_MEMORY, f"{of_user}-*")
        if shutil.disk_usage(SHARED_MEMORY).free > 2 * (KEPT_VERSIONS + 1) * num_bytes:
            name = hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:16]
            try:
                return claim_folder(SHARED_MEMORY / f"{of_user}-{name}")
            except LockError as error:
                log.warning("%s: weights are written to %s", error, fallback)
    return claim_folder(fallback)
