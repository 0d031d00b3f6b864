import logging

import pytest

from trieline.common.complaints import Complaints
from trieline.wire import actor_register
from trieline.wire.actor_register import ActorRegister
from trieline.wire.assignment_ledger import AssignmentLedger, Hand
from trieline.wire.messages import ActorHeartbeat, Assignment


def register(ledger: AssignmentLedger | None = None) -> ActorRegister:
    return ActorRegister(ledger or AssignmentLedger(), Complaints("trajectories"), peer_timeout_s=30)


def test_whoever_comes_and_goes_all_the_time_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    made = register()
    for number in range(30_000):
        made.hear(b"1", f"actor {number}", 1, 0)
        made.remove(f"actor {number}", "actors left", lost=False)
    assert not made.actors
    assert len(caplog.records) < 20
    assert caplog.records[0].getMessage() == (
        "trajectories: 1 actors joined, the latest: actor 0, capacity 1"
    )


def test_no_more_actors_than_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor_register, "MAX_ACTORS", 3)
    made = register()
    heard = [made.hear(b"1", f"actor {number}", 1, 0) is not None for number in range(1_000)]
    assert heard == [True] * 3 + [False] * 997
    assert made.hear(b"1", "actor 2", 1, 0) is not None


def test_what_an_earlier_learner_granted_fills_the_capacity() -> None:
    ledger = AssignmentLedger()
    ledger.offer(Assignment(assignment_id=i, env_id="e", seed=i) for i in range(10))
    made = register(ledger)
    made.hear(b"1", "a", 4, 0)
    ledger.grant({"a": Hand(assignments=1)}, now=0, evaluation_seats=0)
    assert made.hands() == {"a": Hand(assignments=3)}
    made.hear_heartbeat(b"1", ActorHeartbeat(actor_id="a", open_assignments=[0, 70, 71]))
    assert made.hands() == {"a": Hand(assignments=1)}
    assert made.status()["a"].held_assignments == 1


def test_an_unknown_actor_that_does_not_say_its_capacity_is_not_kept() -> None:
    made = register()
    made.hear_heartbeat(b"1", ActorHeartbeat(actor_id="a", running_episodes=2))
    assert not made.actors
