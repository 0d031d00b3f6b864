from trieline.common.restarts import Deaths, RestartPolicy

POLICY = RestartPolicy(max_deaths=4, within_s=10.0, first_pause_s=1.0, max_pause_s=3.0)


def test_pauses_double_up_to_their_limit_and_then_it_is_given_up() -> None:
    deaths = Deaths(policy=POLICY)
    assert [deaths.note(now) for now in (0.0, 1.0, 2.0, 3.0)] == [1.0, 2.0, 3.0, None]


def test_deaths_long_ago_do_not_count() -> None:
    deaths = Deaths(policy=POLICY)
    assert [deaths.note(now) for now in (0.0, 9.0, 11.0, 30.0, 60.0)] == [1.0, 2.0, 2.0, 1.0, 1.0]
