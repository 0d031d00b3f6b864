"""When something that died is started again: after a pause that grows, and not without end."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class RestartPolicy:
    """Of one kind of process."""

    max_deaths: int = 5
    """So many within `within_s`, and starting it again will not mend it."""
    within_s: float = 120.0
    first_pause_s: float = 0.25
    """Doubled with each death that counts."""
    max_pause_s: float = 10.0


@dataclass(slots=True)
class Deaths:
    """Those of one process and its successors."""

    policy: RestartPolicy = RestartPolicy()
    times: list[float] = field(default_factory=list)

    def note(self, now: float) -> float | None:
        """One more. Seconds to wait before the next start; None: give up. `now` is of any one clock."""
        self.times = [t for t in self.times if now - t < self.policy.within_s] + [now]
        count = len(self.times)
        if count >= self.policy.max_deaths:
            return None
        return min(self.policy.max_pause_s, self.policy.first_pause_s * 2.0 ** (count - 1))
