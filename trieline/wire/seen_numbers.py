"""Which sequence numbers of an actor are safe: ranges, so that a run of any length costs next to nothing."""

from bisect import bisect_right

# Gaps are left by refused trees, as an actor sends in order, after a restart by those that no journal keeps
# (evaluations, demonstrations), and by what others were assigned where trees have the numbers of their
# assignments. With more of them the lowest is closed.
MAX_RANGES = 100_000


class SeenNumbers:
    """A set of counts from 0 on, in at most `MAX_RANGES` ranges."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._stops[at]

    def add(self, number: int) -> None:
        at = bisect_right(self._starts, number) - 1
        if at >= 0 and number < self._stops[at]:
            return
        follows = at >= 0 and self._stops[at] == number
        leads = at + 1 < len(self._starts) and self._starts[at + 1] == number + 1
        if follows and leads:
            self._stops[at] = self._stops.pop(at + 1)
            del self._starts[at + 1]
        elif follows:
            self._stops[at] = number + 1
        elif leads:
            self._starts[at + 1] = number
        else:
            self._starts.insert(at + 1, number)
            self._stops.insert(at + 1, number + 1)
            if len(self._starts) > MAX_RANGES:
                del self._stops[0], self._starts[1]
