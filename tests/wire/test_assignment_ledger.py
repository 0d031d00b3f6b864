import pytest
from hypothesis import given
from hypothesis import strategies as st

from trieline.wire.assignment_ledger import AssignmentLedger
from trieline.wire.messages import Assignment


def assignments(*ids: int) -> list[Assignment]:
    return [Assignment(assignment_id=i, env_id="e", seed=i) for i in ids]


def ids(granted: dict[str, list[Assignment]]) -> dict[str, list[int]]:
    return {actor_id: [a.assignment_id for a in given] for actor_id, given in granted.items()}


def test_dealt_one_by_one_up_to_what_each_can_take() -> None:
    ledger = AssignmentLedger()
    ledger.offer(assignments(0, 1, 2, 3, 4, 5))
    assert ids(ledger.grant({"a": 3, "b": 1, "c": 0}, now=0)) == {"a": [0, 2, 3], "b": [1]}
    assert ledger.outstanding() == 6
    assert ids(ledger.grant({"c": 9}, now=0)) == {"c": [4, 5]}


def test_what_is_taken_back_goes_out_first_in_its_order() -> None:
    ledger = AssignmentLedger()
    ledger.offer(assignments(0, 1, 2, 3))
    ledger.grant({"a": 3}, now=0)
    assert ledger.close("a", 1)
    assert ledger.take_back("a") == 2
    assert ids(ledger.grant({"b": 9}, now=0)) == {"b": [0, 2, 3]}


def test_only_the_holder_closes() -> None:
    ledger = AssignmentLedger()
    ledger.offer(assignments(0))
    ledger.grant({"a": 1}, now=0)
    assert not ledger.close("b", 0)
    assert not ledger.close("a", 7)
    assert ledger.outstanding() == 1
    assert ledger.close("a", 0)
    assert not ledger.close("a", 0)
    assert ledger.outstanding() == 0


def test_an_assignment_that_the_holder_never_lists_was_lost() -> None:
    ledger = AssignmentLedger()
    ledger.offer(assignments(0, 1, 2))
    ledger.grant({"a": 2}, now=10)
    ledger.grant({"a": 1}, now=20)
    assert ledger.unknown_to("a", {0}, granted_before=15) == [1]
    assert ledger.unknown_to("b", set(), granted_before=15) == []


def test_an_actor_owes_what_it_was_granted_until_it_closes_it_even_if_it_was_taken_back() -> None:
    ledger = AssignmentLedger()
    ledger.offer(assignments(5, 6))
    assert not ledger.owes("a", 5)
    ledger.grant({"a": 2}, now=0)
    assert ledger.owes("a", 5)
    assert not ledger.owes("b", 5)
    ledger.take_back("a", [5])
    assert ledger.owes("a", 5)
    ledger.close("a", 5)
    assert not ledger.owes("a", 5)
    assert not ledger.owes("a", 7)


def test_ids_below_all_that_were_offered_are_of_before_a_restart_and_owed_once_by_everyone() -> None:
    ledger = AssignmentLedger()
    assert ledger.owes("a", 100)
    ledger.close("a", 4)
    ledger.offer(assignments(5, 6))
    assert not ledger.owes("a", 4)
    assert not ledger.owes("a", 100)
    assert ledger.owes("b", 4)


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("offer"), st.integers(0, 4)),
            st.tuples(st.just("grant"), st.dictionaries(st.sampled_from("abc"), st.integers(-1, 4))),
            st.tuples(st.just("close"), st.sampled_from("abc")),
            st.tuples(st.just("lose"), st.sampled_from("abc")),
        )
    )
)
def test_every_assignment_is_in_one_place_until_it_is_closed(steps: list[tuple[str, object]]) -> None:
    ledger = AssignmentLedger()
    offered = closed = 0
    for step, argument in steps:
        match step, argument:
            case "offer", int(count):
                ledger.offer(assignments(*range(offered, offered + count)))
                offered += count
            case "grant", dict(free):
                granted = ledger.grant(free, now=0)
                assert all(len(given) <= free[actor_id] for actor_id, given in granted.items())
            case "close", str(actor_id):
                for assignment_id in list(ledger.held_by(actor_id))[:2]:
                    closed += ledger.close(actor_id, assignment_id)
            case "lose", str(actor_id):
                ledger.take_back(actor_id)
                assert not ledger.held_by(actor_id)
            case _:
                pytest.fail(f"unknown step {step}")
        assert ledger.outstanding() == offered - closed
    for actor_id in "abc":
        ledger.take_back(actor_id)
    rest = ledger.grant({"z": 10_000}, now=0).get("z", [])
    assert len({a.assignment_id for a in rest}) == offered - closed


def test_a_task_that_takes_its_actors_down_is_given_up() -> None:
    ledger = AssignmentLedger(max_losses=3)
    ledger.offer(assignments(0, 1, 2))
    for actor in ("a", "b"):
        assert ids(ledger.grant({actor: 3}, now=0)) == {actor: [0, 1, 2]}
        ledger.take_back(actor, lost=True)
    assert ledger.take_given_up() == []
    # The next loss is the last: each of them is now granted without the others, beside fresh ones.
    ledger.offer(assignments(3, 4))
    assert ids(ledger.grant({"c": 3}, now=0)) == {"c": [0, 3, 4]}
    ledger.take_back("c", lost=True)
    assert [a.assignment_id for a in ledger.take_given_up()] == [0]
    assert ledger.take_given_up() == []
    assert ledger.outstanding() == 4
    assert ids(ledger.grant({"d": 1, "e": 1}, now=0)) == {"d": [3], "e": [4]}
    assert ids(ledger.grant({"d": 2, "e": 2}, now=0)) == {"d": [1], "e": [2]}
    assert ledger.owes("c", 0), "it may come all the same"
    assert ledger.close("d", 1)
    assert ledger.close("e", 2)
    assert ledger.outstanding() == 2


def test_what_never_reached_its_actor_is_no_loss_of_it() -> None:
    ledger = AssignmentLedger(max_losses=1)
    ledger.offer(assignments(0))
    for _ in range(5):
        assert ids(ledger.grant({"a": 1}, now=0)) == {"a": [0]}
        ledger.take_back("a", [0])
    assert ledger.take_given_up() == []
