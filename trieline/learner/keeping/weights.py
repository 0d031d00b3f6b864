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

from trieline.learner.keeping.weight_file import write_weights
from trieline.wire.weights_link import WeightsPublisher

log = logging.getLogger(__name__)

KEPT_VERSIONS = 2
# In a folder of the shared memory: the process id of the learner that writes there.
OWNER_FILE = "owner"
SHARED_MEMORY = Path("/dev/shm")


class WeightsOutbox:
    """Writes versions to a folder and announces them through `publisher`."""

    def __init__(self, publisher: WeightsPublisher, folder: Path) -> None:
        """Empty the folder of what an earlier start left in it."""
        self._publisher = publisher
        self._folder = folder
        self._files: list[Path] = []
        for stale in folder.glob("*.safetensors"):
            stale.unlink()

    def publish(self, policy_version: int, weights: Mapping[str, torch.Tensor]) -> Path:
        """Write one version and announce it. Returns as soon as the servers can read it."""
        path = self._folder / f"policy_{policy_version:08d}.safetensors"
        spare = self._files.pop(0) if len(self._files) > KEPT_VERSIONS else None
        crc32 = write_weights(
            path, weights, metadata={"policy_version": str(policy_version)}, write_over=spare
        )
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
        """Remove the files; what the servers have loaded stays with them. Idempotent."""
        for path in self._files:
            path.unlink(missing_ok=True)
        self._files.clear()
        if self._folder.parent == SHARED_MEMORY:
            shutil.rmtree(self._folder, ignore_errors=True)


def outbox_folder(run_dir: Path, num_bytes: int) -> Path:
    """Where versions of `num_bytes` are written: shared memory if there is ample room, else the run folder.

    Writing 270 MB takes 0.1 s there, and a disk would be kept busy with bytes that nobody needs a step later.
    """
    fallback = run_dir / "weights"
    if SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > 2 * (KEPT_VERSIONS + 1) * num_bytes:
        name = hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:16]
        folder = SHARED_MEMORY / f"trieline-{os.getuid()}-{name}"
        _sweep_orphans()
        if _make_private(folder):
            (folder / OWNER_FILE).write_text(str(os.getpid()))
            return folder
        log.warning("%s belongs to somebody else; weights are written to %s", folder, fallback)
    fallback.mkdir(parents=True, exist_ok=True)
    return fallback


def _sweep_orphans() -> None:
    """Free the memory that learners of this user left taken when they were killed."""
    for folder in SHARED_MEMORY.glob(f"trieline-{os.getuid()}-*"):
        try:
            os.kill(int((folder / OWNER_FILE).read_text()), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (OSError, ValueError):
            continue


def _make_private(folder: Path) -> bool:
    """Everybody may write beside it, so the name could have been taken by another user or a link."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    return folder.is_dir() and not folder.is_symlink() and found.st_uid == os.getuid()
