"""`kill -9` of each program of a run, once; `benchmarks/kill_nine.py` does it again and again."""

import random

import pytest

from benchmarks.kill_nine import kill_in_one_run
from benchmarks.killed_run import AGENT, TARGETS, Figures


@pytest.mark.end_to_end
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_killed_program_ends_no_run_and_nothing_is_lost_or_taken_twice() -> None:
    figures = Figures("plain", "each once")
    kill_in_one_run([*TARGETS], random.Random(0), figures, early=False)
    assert figures.good, figures
    assert figures.kills == len(TARGETS)


@pytest.mark.end_to_end
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_agents_and_what_they_ask_may_be_killed_and_the_run_goes_on() -> None:
    targets = [AGENT, "learner", "worker", "policy-server", AGENT, "launcher"]
    figures = Figures("agent", "each in turn")
    kill_in_one_run(targets, random.Random(0), figures, early=False)
    assert figures.good, figures
    assert figures.kills == len(targets)
