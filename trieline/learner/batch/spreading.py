"""Which rank of the learner computes which groups, so that the ranks wait for each other least."""

from collections.abc import Sequence


def spread(costs: Sequence[float], num_ranks: int) -> list[list[int]]:
    """Distribute items over ranks: the most expensive first, each to the rank that has least so far.

    The most loaded rank has at most 4/3 of what it would have at best (Graham 1969, "Bounds on
    multiprocessing timing anomalies"). Returns the items of each rank, rising; some have none if there are
    fewer than ranks.
    """
    loads = [0.0] * num_ranks
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    for item in sorted(range(len(costs)), key=lambda i: -costs[i]):
        rank = min(range(num_ranks), key=lambda r: (loads[r], len(shares[r])))
        loads[rank] += costs[item]
        shares[rank].append(item)
    return [sorted(share) for share in shares]


def in_rounds(costs: Sequence[Sequence[float]]) -> list[list[int | None]]:
    """The order in which each rank computes its packs where all ranks compute one at a time.

    `costs[r]` are those of the packs of rank r. All ranks begin with their most expensive pack, so that equal
    rounds have nearly equal costs; who has fewer packs than others ends with None, an empty one.
    """
    rounds = max(map(len, costs), default=0)
    orders = [sorted(range(len(own)), key=lambda i, own=own: -own[i]) for own in costs]  # type: ignore[misc]
    return [[*order, *[None] * (rounds - len(order))] for order in orders]
