"""Learner and policy server on one machine: who computes on how many cores.

Two programs that multiply matrices on the same cores at the same time wait for each other's threads at every
barrier, and are several times slower than either alone. So they take turns on all cores
(`max_staleness = 0`: each waits for the other anyway), or each keeps to its half.
`benchmarks/role_schedule.py` measures both, and what happens otherwise.

Other people's programs take turns with ours whether we want or not. A thread that spins at a barrier while
another of its program waits for a core spins away the time in which that one would have run.
`benchmarks/busy_neighbours.py` measures it.
"""

import os

import msgspec

from trieline.common.machine_limits import chosen_threads, usable_cores
from trieline.config import Config

SPIN_COUNT = 10_000
"""Turns that a thread of OpenMP (GNU's, which torch brings) spins at a barrier before it sleeps: some tenths
of a millisecond, which covers what a forward pass does between two products. Its own default is 300,000."""


def share_cores(config: Config, cores: int | None = None) -> Config:
    """Fill in the numbers of threads that were left open.

    Args:
        config: its links stay on this machine.
        cores: how many there are. None: those that this process may use; or OMP_NUM_THREADS for each program.
    """
    learner, server = config.learner, config.policy_server
    if cores is None and (chosen := chosen_threads()) is not None:
        ours = theirs = chosen
    else:
        ours = theirs = cores or usable_cores()
        if learner.max_staleness > 0 and learner.replay is None:
            ours = max(1, ours // 2)
            theirs = max(1, theirs - ours)
    return msgspec.structs.replace(
        config,
        # Ranks on several machines have more cores than this one, but then also a number of threads or GPUs.
        learner=msgspec.structs.replace(learner, threads=learner.threads or max(1, ours // learner.ranks)),
        policy_server=msgspec.structs.replace(server, threads=server.threads or theirs),
    )


def spin_briefly() -> None:
    """Let threads that wait for each other sleep soon, unless the environment says how they wait.

    Before torch is imported: OpenMP reads the environment once.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
