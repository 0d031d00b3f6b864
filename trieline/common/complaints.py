"""What happens again and again is counted and said once in a while, so that nobody fills a disk with it."""

import logging
import time
from collections import Counter

from trieline.common.text import shortened

logger = logging.getLogger(__name__)

LOG_EVERY_S = 10.0
"""For each kind."""


class Complaints:
    """Counts what happens, and logs each kind at once and then at most every `LOG_EVERY_S`."""

    def __init__(self, subject: str) -> None:
        """`subject`: what it is about, the first word of each line."""
        self.counts: Counter[str] = Counter()
        """By kind, since the start."""
        self._subject = subject
        self._logged: Counter[str] = Counter()
        self._quiet_until: dict[str, float] = {}

    def add(self, kind: str, detail: object, *, level: int = logging.WARNING) -> None:
        """Count one. `kind` is one of a few fixed words; `detail` may be a stranger's and is shortened."""
        self.counts[kind] += 1
        now = time.monotonic()
        if now < self._quiet_until.get(kind, now):
            return
        self._quiet_until[kind] = now + LOG_EVERY_S
        since = self.counts[kind] - self._logged[kind]
        self._logged[kind] = self.counts[kind]
        logger.log(level, "%s: %d %s, the latest: %s", self._subject, since, kind, shortened(detail))
