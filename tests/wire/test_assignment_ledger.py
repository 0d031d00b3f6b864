import pytest
from hypothesis import given
from hypothesis import strategies as st

from trieline.wire.assignment_ledger import MAX_EARLIER, MAX_TAKEN_BACK, AssignmentLedger, Hand
from trieline.wire.messages import Assignment


def assignments(*ids: int) -> list[Assignment]:
    return [Assignment(assignment_id=i, env_id="e", seed=i) for i in ids]


def grant(
    ledger: AssignmentLedger, free: dict[str, int], now: float = 0, evaluation_seats: int = 0
) -> dict[str, list[Assignment]]:
    hands = {actor_id: Hand(assignments=count) for actor_id, count in free.items()}
    return ledger.grant(hands, now, evaluation_seats=evaluation_seats)


def ids(granted: dict[str, list[Assignment]]) -> dict[str, list[int]]:
    return {actor_id: [a.assignment_id for a in given] for actor_id, given in granted.items()}


def test_dealt_one_by_one_up_to_what_each_can_take() -> None:
    ledger = AssignmentLedger()
    ledger.offer(assignments(0, 1, 2, 3, 4, 5))
    assert ids(grant(ledger, {"a": 3, "b": 1, "c": 0}, now=0)) == {"a": [0, 2, 3], "b": [1]}
    assert ledger.outstanding("train") == 6
    assert ids(grant(ledger, {"c": 9}, now=0)) == {"c": [4, 5]}


def test_groups_fill_the_episodes_of_an_actor_and_one_more_fills_their_gaps() -> None:
    ledger = AssignmentLedger()
    ledger.offer(assignments(*range(20)))  # groups of 8
    ledger.offer([Assignment(assignment_id=20, env_id="e", seed=0, group_size=1)])
    granted = ledger.grant({"a": Hand(assignments=100, episodes=16)}, now=0, evaluation_seats=0)
    assert ids(granted) == {"a": [0, 1, 2]}
    assert ledger.episodes_of("a") == 24
    ledger.close("a", 1)
    assert ledger.episodes_of("a") == 16


def evaluations(*ids: int) -> list[Assignment]:
    return [Assignment(assignment_id=i, env_id="e", seed=i, group_size=1, purpose="evaluate") for i in ids]


def test_evaluations_have_their_seats_and_no_more_while_others_wait() -> None:
    ledger = AssignmentLedger()
    ledger.offer(assignments(0, 1, 2))
    ledger.offer(evaluations(10, 11, 12, 13))
    assert ids(grant(ledger, {"a": 4}, evaluation_seats=2)) == {"a": [10, 11, 0, 1]}
    assert ledger.outstanding("train") == 3
    assert ledger.outstanding("evaluate") == 4
    # The seats are taken; when one is free again, the next evaluation sits down.
    assert ids(grant(ledger, {"b": 1}, evaluation_seats=2)) == {"b": [2]}
    ledger.close("a", 11)
    ledger.offer(assignments(3))
    assert ids(grant(ledger, {"b": 2}, evaluation_seats=2)) == {"b": [12, 3]}
    # Where nothing else waits, evaluations take what is there.
    assert ids(grant(ledger, {"b": 9}, evaluation_seats=2)) == {"b": [13]}
    assert ledger.take_back("a") == 3
    assert ids(grant(ledger, {"c": 9}, evaluation_seats=0)) == {"c": [0, 1, 10]}


def test_what_is_withdrawn_is_granted_to_nobody() -> None:
    ledger = AssignmentLedger(max_losses=3)
    ledger.offer(evaluations(0, 1, 2, 3))
    ledger.offer(assignments(4))
    assert ids(grant(ledger, {"a": 2}, evaluation_seats=9)) == {"a": [0, 1]}
    ledger.withdraw({0, 1, 2, 77})
    assert ledger.outstanding("evaluate") == 3
    # What has begun may bring its tree.
    assert ledger.owed("a", 0) is not None
    assert ledger.close("a", 0)
    # Or not: nobody plays it again.
    assert ledger.take_back("a", lost=True) == 1
    assert ledger.outstanding("evaluate") == 1
    assert ids(grant(ledger, {"b": 9}, evaluation_seats=9)) == {"b": [3, 4]}
    assert ledger.take_given_up() == []


def test_what_is_taken_back_goes_out_first_in_its_order() -> None:
    ledger = AssignmentLedger()
    ledger.offer(assignments(0, 1, 2, 3))
    grant(ledger, {"a": 3}, now=0)
    assert ledger.close("a", 1)
    assert ledger.take_back("a") == 2
    assert ids(grant(ledger, {"b": 9}, now=0)) == {"b": [0, 2, 3]}


def test_only_the_holder_closes() -> None:
    ledger = AssignmentLedger()
    ledger.offer(assignments(0))
    grant(ledger, {"a": 1}, now=0)
    assert not ledger.close("b", 0)
    assert not ledger.close("a", 7)
    assert ledger.outstanding("train") == 1
    assert ledger.close("a", 0)
    assert not ledger.close("a", 0)
    assert ledger.outstanding("train") == 0


def test_an_assignment_that_the_holder_never_lists_was_lost() -> None:
    ledger = AssignmentLedger()
    ledger.offer(assignments(0, 1, 2))
    grant(ledger, {"a": 2}, now=10)
    grant(ledger, {"a": 1}, now=20)
    assert ledger.unknown_to("a", {0}, granted_before=15) == [1]
    assert ledger.unknown_to("b", set(), granted_before=15) == []


def test_an_actor_owes_what_it_was_granted_until_it_closes_it_even_if_it_was_taken_back() -> None:
    ledger = AssignmentLedger()
    ledger.offer(assignments(5, 6))
    assert not ledger.owes("a", 5)
    grant(ledger, {"a": 2}, now=0)
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


def test_what_lost_actors_owed_is_bounded_and_the_latest_is_remembered() -> None:
    ledger = AssignmentLedger()
    ledger.offer(assignments(*range(100)))
    for number in range(1_000):
        actor_id = f"lost {number}"
        grant(ledger, {actor_id: 100})
        assert ledger.take_back(actor_id) == 100
    assert len(ledger._taken_back) == MAX_TAKEN_BACK
    assert not ledger._held
    assert ledger.owes("lost 999", 0)
    assert not ledger.owes("lost 0", 0)
    assert ledger.outstanding("train") == 100


def test_what_is_taken_back_again_is_remembered_as_late_as_the_latest() -> None:
    ledger = AssignmentLedger()
    ledger.offer(assignments(0))
    for _ in range(2):
        grant(ledger, {"a": 1})
        ledger.take_back("a")
        for number in range(MAX_TAKEN_BACK - 1):
            grant(ledger, {f"b {number}": 1})
            ledger.take_back(f"b {number}")
    assert ledger.owes("a", 0)


def test_trees_of_before_a_restart_are_bounded() -> None:
    ledger = AssignmentLedger()
    ledger.offer(assignments(1_000_000))
    came = 0
    for number in range(100_000):
        if ledger.owes("a", number):
            ledger.close("a", number)
            came += 1
    assert came == MAX_EARLIER
    assert len(ledger._closed_earlier) == MAX_EARLIER


def test_a_refused_tree_of_before_a_restart_takes_nobody_s_place() -> None:
    ledger = AssignmentLedger()
    ledger.offer(assignments(1_000_000))
    for number in range(2 * MAX_EARLIER):
        assert not ledger.drop("a", number)
    assert ledger.owes("b", 7)


def test_the_assignment_itself_is_known_as_long_as_a_tree_of_it_may_come() -> None:
    ledger = AssignmentLedger()
    ledger.offer(assignments(5))
    grant(ledger, {"a": 1})
    assert ledger.owed("a", 5) == assignments(5)[0]
    assert ledger.owed("b", 5) is None
    ledger.take_back("a")
    assert ledger.owed("a", 5) == assignments(5)[0]
    ledger.close("a", 5)
    assert ledger.owed("a", 5) is None
    assert ledger.owed("a", 3) is None


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
                granted = grant(ledger, free, now=0)
                assert all(len(given) <= free[actor_id] for actor_id, given in granted.items())
            case "close", str(actor_id):
                for assignment_id in list(ledger.held_by(actor_id))[:2]:
                    closed += ledger.close(actor_id, assignment_id)
            case "lose", str(actor_id):
                ledger.take_back(actor_id)
                assert not ledger.held_by(actor_id)
            case _:
                pytest.fail(f"unknown step {step}")
        assert ledger.outstanding("train") == offered - closed
    for actor_id in "abc":
        ledger.take_back(actor_id)
    rest = grant(ledger, {"z": 10_000}, now=0).get("z", [])
    assert len({a.assignment_id for a in rest}) == offered - closed


def test_a_task_that_takes_its_actors_down_is_given_up() -> None:
    ledger = AssignmentLedger(max_losses=3)
    ledger.offer(assignments(0, 1, 2))
    for actor in ("a", "b"):
        assert ids(grant(ledger, {actor: 3})) == {actor: [0, 1, 2]}
        ledger.take_back(actor, lost=True)
    assert ledger.take_given_up() == []
    # The next loss is the last: each of them is now granted without the others, beside fresh ones.
    ledger.offer(assignments(3, 4))
    assert ids(grant(ledger, {"c": 3})) == {"c": [0, 3, 4]}
    ledger.take_back("c", lost=True)
    assert [a.assignment_id for a in ledger.take_given_up()] == [0]
    assert ledger.take_given_up() == []
    assert ledger.outstanding("train") == 4
    assert ids(grant(ledger, {"d": 1, "e": 1})) == {"d": [3], "e": [4]}
    assert ids(grant(ledger, {"d": 2, "e": 2})) == {"d": [1], "e": [2]}
    assert ledger.owes("c", 0), "it may come all the same"
    assert ledger.close("d", 1)
    assert ledger.close("e", 2)
    assert ledger.outstanding("train") == 2


def test_what_never_reached_its_actor_is_no_loss_of_it() -> None:
    ledger = AssignmentLedger(max_losses=1)
    ledger.offer(assignments(0))
    for _ in range(5):
        assert ids(grant(ledger, {"a": 1})) == {"a": [0]}
        ledger.take_back("a", [0])
    assert ledger.take_given_up() == []


def test_suspect_evaluations_hold_up_no_training() -> None:
    ledger = AssignmentLedger(max_losses=2)
    ledger.offer(evaluations(10, 11))
    grant(ledger, {"a": 2}, evaluation_seats=9)
    ledger.take_back("a", lost=True)
    ledger.offer(assignments(0, 1))
    assert ids(grant(ledger, {"b": 3}, evaluation_seats=9)) == {"b": [10, 0, 1]}
