"""An evaluation ends when somebody asks the run to stop, and leaves nothing behind."""

import asyncio
import threading

import pytest

from trieline.actors.evaluate import EvalReport
from trieline.launcher import evaluation
from trieline.learner.errors import StopRequested

DEADLINE_S = 20.0


def test_an_evaluation_ends_when_asked_to() -> None:
    stop, closed = threading.Event(), threading.Event()

    async def episodes() -> EvalReport:
        try:
            stop.set()
            await asyncio.sleep(DEADLINE_S)
        finally:
            closed.set()
        raise AssertionError

    with pytest.raises(StopRequested):
        asyncio.run(evaluation._run_until(stop, episodes()))
    assert closed.is_set()


def test_an_evaluation_that_nobody_stops_gives_its_report() -> None:
    report = EvalReport(seed=0, temperature=1.0, split="test", policy_versions=[], envs=[])

    async def episodes() -> EvalReport:
        return report

    for stop in (None, threading.Event()):
        assert asyncio.run(evaluation._run_until(stop, episodes())) is report
