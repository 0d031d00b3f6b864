"""Broken episodes, counted by environment and cause, and logged without drowning everything else."""

import logging
import time
from collections import Counter

log = logging.getLogger(__name__)

LOG_EVERY_S = 10.0
"""For each environment and cause."""
MAX_REASON = 500


class BrokenEpisodes:
    """What broke in one process. An environment that always fails does so thousands of times a minute."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        """By environment id and cause."""
        self._logged: Counter[tuple[str, str]] = Counter()
        self._quiet_until: dict[tuple[str, str], float] = {}

    def add(self, env_id: str, cause: str, reason: str) -> None:
        """Count one, and log it unless one of its kind was logged just now."""
        kind = (env_id, cause)
        self.counts[kind] += 1
        now = time.monotonic()
        if now < self._quiet_until.get(kind, now):
            return
        self._quiet_until[kind] = now + LOG_EVERY_S
        since = self.counts[kind] - self._logged[kind]
        self._logged[kind] = self.counts[kind]
        log.warning("%s: %d broken (%s), the latest: %s", env_id, since, cause, reason[:MAX_REASON])
