"""Broken episodes, counted by environment and cause, and logged without drowning everything else."""

from collections import Counter

from trieline.common.complaints import Complaints


class BrokenEpisodes:
    """What broke in one process. An environment that always fails does so thousands of times a minute."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        """By environment id and cause."""
        self._complaints: dict[str, Complaints] = {}

    def add(self, env_id: str, cause: str, reason: str) -> None:
        """Count one, and log it unless one of its kind was logged just now."""
        self.counts[env_id, cause] += 1
        complaints = self._complaints.setdefault(env_id, Complaints(env_id))
        complaints.add(f"broken ({cause})", reason)
