"""Learner and policy server on one machine: who computes on how many cores.

Two programs that multiply matrices on the same cores at the same time wait for each other's threads at every
barrier, and are several times slower than either alone. So they take turns on all cores
(`max_staleness = 0`: each waits for the other anyway), or each keeps to its half.
`benchmarks/role_schedule.py` measures both, and what happens otherwise.
"""

import msgspec

from trieline.common.machine_limits import chosen_threads, usable_cores
from trieline.config import Config


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
        learner=msgspec.structs.replace(learner, threads=learner.threads or ours),
        policy_server=msgspec.structs.replace(server, threads=server.threads or theirs),
    )
