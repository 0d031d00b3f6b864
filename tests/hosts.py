"""Networks of hosts, for tests: where they can't be made, root in CI fails and others skip."""

import os

import pytest

from benchmarks.host_network import reason_against_hosts


def need_hosts() -> None:
    """Skip, or in CI as root fail, if no network of hosts can be made here."""
    if reason := reason_against_hosts():
        if os.environ.get("CI") and os.geteuid() == 0:
            pytest.fail(f"network namespaces must be there in CI: {reason}")
        pytest.skip(reason)
