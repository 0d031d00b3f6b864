import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from trieline.learner.errors import CheckpointError, LearnerError
from trieline.learner.intake.curriculum import Curriculum
from trieline.wire.config import CurriculumConfig, EnvConfig
from trieline.wire.messages import Assignment

MATH = EnvConfig(id="math", curriculum=CurriculumConfig(weight=2.0, levels=[1, 2, 3], promote_at=0.5))
CODE = EnvConfig(id="code", curriculum=CurriculumConfig(weight=1.0))
GAME = EnvConfig(id="game", curriculum=CurriculumConfig(weight=1.0, levels=[10, 20], open_levels=2))


def curriculum(
    seed: int = 0, envs: tuple[EnvConfig, ...] = (MATH, CODE, GAME), **options: float
) -> Curriculum:
    return Curriculum(envs, seed=seed, group_size=4, promotion_episodes=8)


def test_environments_come_by_weight_in_every_stretch() -> None:
    tasks = curriculum()
    ids = [tasks.next_assignment().env_id for _ in range(400)]
    assert {env: ids.count(env) for env in set(ids)} == {"math": 200, "code": 100, "game": 100}
    for start in range(0, 400, 8):
        assert 3 <= ids[start : start + 8].count("math") <= 5


def test_seeds_never_come_again_and_runs_share_none() -> None:
    one, two = curriculum(seed=0), curriculum(seed=1)
    seeds = [c.next_assignment().seed for c in (one, two) for _ in range(500)]
    assert len(set(seeds)) == 1000


def test_the_same_results_give_the_same_assignments() -> None:
    def play() -> list[Assignment]:
        tasks = curriculum(seed=3)
        handed_out: list[Assignment] = []
        for i in range(60):
            assignment = tasks.next_assignment()
            handed_out.append(assignment)
            tasks.record(assignment.env_id, assignment.level, [float(i % 3 > 0)] * 4)
        return handed_out

    assert play() == play()


def test_levels_open_when_the_hardest_one_is_mastered() -> None:
    tasks = curriculum(envs=(MATH,))
    assert {tasks.next_assignment().level for _ in range(20)} == {1}
    tasks.record("math", 1, [1.0] * 4)
    assert tasks.levels() == {"math": 1}, "four rollouts are too few"
    tasks.record("math", 1, [0.0] * 3)
    tasks.record("math", 1, [0.0])
    assert tasks.levels() == {"math": 2}, "the mean is 0.5"
    levels = [tasks.next_assignment().level for _ in range(100)]
    assert (levels.count(2), levels.count(1)) == (60, 40)
    tasks.record("math", 1, [1.0] * 100)
    assert tasks.levels() == {"math": 2}, "an easier level opens nothing"
    tasks.record("math", 2, [0.0] * 8 + [1.0] * 4)
    assert tasks.levels() == {"math": 3}
    levels = [tasks.next_assignment().level for _ in range(300)]
    assert levels.count(3) == 180
    assert levels.count(2) == pytest.approx(80, abs=1)
    tasks.record("math", 3, [1.0] * 8)
    assert tasks.levels() == {"math": 3}, "there is no harder one"


def test_a_mean_that_rounding_keeps_below_the_mark_opens_the_next_level() -> None:
    config = CurriculumConfig(levels=[1, 2], promote_at=0.7)
    tasks = curriculum(envs=(EnvConfig(id="steady", curriculum=config),))
    tasks.record("steady", 1, [float(np.float32(0.7)) - 1e-9] * 100)
    assert tasks.levels() == {"steady": 2}


def test_environments_without_levels_are_asked_for_none() -> None:
    tasks = curriculum(envs=(CODE,))
    assert tasks.next_assignment().level is None
    tasks.record("code", 0, [1.0])
    tasks.record("unknown", 0, [1.0])
    assert tasks.levels() == {}


def test_state_goes_through_json() -> None:
    straight, stopped = curriculum(), curriculum()
    for tasks in (straight, stopped):
        for _ in range(17):
            assignment = tasks.next_assignment()
            tasks.record(assignment.env_id, assignment.level, [0.7, 0.4])
    resumed = curriculum()
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    for _ in range(40):
        one, two = straight.next_assignment(), resumed.next_assignment()
        assert one == two
        straight.record(one.env_id, one.level, [1.0, 0.6])
        resumed.record(two.env_id, two.level, [1.0, 0.6])
    resumed.skip_handed_out(10)
    assert resumed.next_assignment().assignment_id > 1_000_000


def test_two_restarts_from_one_checkpoint_share_no_seed() -> None:
    checkpoint = curriculum().state_dict()
    seeds, last_id = [], -1
    for _ in range(3):
        tasks = curriculum()
        tasks.load_state_dict(checkpoint)
        tasks.skip_handed_out(last_id)
        handed_out = [tasks.next_assignment() for _ in range(10)]
        last_id = handed_out[0].assignment_id  # the only one whose tree came
        seeds += [a.seed for a in handed_out]
    assert len(set(seeds)) == 30


@pytest.mark.parametrize(
    "new",
    [
        EnvConfig(id="new", curriculum=CurriculumConfig(weight=1.0)),
        replace(CODE, curriculum=CurriculumConfig(weight=3.0)),
    ],
)
def test_a_changed_mix_is_counted_anew(new: EnvConfig) -> None:
    stopped = curriculum()
    for _ in range(5_000):
        stopped.next_assignment()
    mix = {env.id: env for env in (MATH, CODE, GAME, new)}
    resumed = curriculum(envs=tuple(mix.values()))
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    ids = [resumed.next_assignment().env_id for _ in range(100)]
    total = sum(env.curriculum.weight for env in mix.values())
    for env in mix.values():
        assert ids.count(env.id) == pytest.approx(100 * env.curriculum.weight / total, abs=1)


def test_an_environment_with_a_list_goes_through_it() -> None:
    words = [f"word {number}" for number in range(5)]
    tasks = Curriculum((MATH, CODE), seed=0, group_size=4, tasks={"code": words, "math": words})
    handed_out = [tasks.next_assignment() for _ in range(30)]
    of_code = [a for a in handed_out if a.env_id == "code"]
    for start in (0, 5):
        assert sorted(str(a.task_id) for a in of_code[start : start + 5]) == words
    assert len({a.seed for a in handed_out}) == 30, "two turns of a task are sampled from other seeds"
    assert {a.task_id for a in handed_out if a.env_id == "math"} == {None}, "its levels come first"
    for a in of_code:
        tasks.record("code", 0, [1.0, 0.0], task_id=a.task_id, policy_version=2)
    figures = tasks.figures()
    assert figures["curriculum/math/level"] == 1
    assert (figures["curriculum/code/epoch"], figures["curriculum/code/seen"]) == (2.0, 1.0)
    assert (figures["curriculum/code/solve_all"], figures["curriculum/code/solve_none"]) == (0.0, 0.0)


def test_a_restart_hands_out_what_is_under_way_unless_its_tree_has_come() -> None:
    words = [f"word {number}" for number in range(5)]
    envs = [EnvConfig(id="one"), EnvConfig(id="two")]

    def course() -> Curriculum:
        return Curriculum(envs, seed=0, group_size=4, tasks={"one": words, "two": words})

    stopped = course()
    handed_out = [stopped.next_assignment() for _ in range(6)]
    state = json.loads(json.dumps(stopped.state_dict()))
    resumed = course()
    resumed.load_state_dict(state)
    resumed.skip_handed_out(1, [("one", str(handed_out[0].task_id)), ("elsewhere", "word 1")])
    again = [resumed.next_assignment() for _ in range(5)]
    assert [(a.env_id, a.task_id) for a in again if a.env_id == "one"][:2] == [
        (a.env_id, a.task_id) for a in handed_out[1:] if a.env_id == "one"
    ]
    older = {**state, "envs": {i: {**s, "tasks": None} for i, s in state["envs"].items()}}
    course().load_state_dict(older)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rest_epochs": 2}, "expected rest_after where rest_epochs is set"),
        ({"rest_after": 2}, r"expected a list of tasks \(task_ids\) where rest_after is set, got none"),
        ({"rest_after": 2, "levels": [1]}, "expected no levels and listed = true where rest_after is set"),
        ({"rest_after": 2, "listed": False}, "expected no levels and listed = true where rest_after is set"),
        ({"listed": False, "levels": [1]}, "listed = false has no effect with levels"),
    ],
)
def test_settings_of_a_list_need_one(settings: dict[str, Any], said: str) -> None:
    env = EnvConfig(id="x", curriculum=CurriculumConfig(**settings))
    with pytest.raises(LearnerError, match=f"^x: {said}"):
        Curriculum([env], seed=0, group_size=4, tasks={})


def test_one_rollout_tells_nothing_of_its_spread() -> None:
    env = EnvConfig(id="x", curriculum=CurriculumConfig(rest_after=2))
    with pytest.raises(LearnerError, match="expected a group_size of at least 2 where rest_after is set"):
        Curriculum([env], seed=0, group_size=1, tasks={"x": ["a"]})


def test_what_can_not_be_is_refused() -> None:
    with pytest.raises(LearnerError, match="got 'math' twice"):
        curriculum(envs=(MATH, MATH))
    with pytest.raises(LearnerError, match="expected open_levels <= 1"):
        curriculum(envs=(EnvConfig(id="x", curriculum=CurriculumConfig(levels=[1], open_levels=2)),))
    with pytest.raises(LearnerError, match="expected levels where promote_at is set"):
        curriculum(envs=(EnvConfig(id="x", curriculum=CurriculumConfig(promote_at=0.5)),))
    with pytest.raises(CheckpointError, match="expected the state of a curriculum"):
        curriculum().load_state_dict({"next_id": 3})


def test_config_and_curriculum_load_no_torch() -> None:
    code = (
        "import sys, trieline.learner.config, trieline.learner.intake.curriculum\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
