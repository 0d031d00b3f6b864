"""A run over three machines; `benchmarks/hosts.py` writes down what it comes to."""

import pytest

from benchmarks.hosts import TOLD_WITHIN_S, run_hosts
from tests.hosts import need_hosts


@pytest.mark.end_to_end
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_machine_cut_off_and_a_dead_one_end_no_run_and_nothing_is_lost_or_taken_twice() -> None:
    need_hosts()
    figures = run_hosts(cut_s=60)
    assert figures.told_after_s < TOLD_WITHIN_S
    assert figures.answers_to_a_stranger == 0
    assert figures.steps_while_cut_off > 0
    assert (figures.lost, figures.twice, figures.wrong) == (0, 0, [])
