"""The contract of an environment: Gymnasium's own checker, and what training asks for besides.

Each check takes an environment of texts, whoever wrote it. What is optional (levels, splits, and all of
`protocols`) is checked where it is offered.
"""

import contextlib
import inspect
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.utils.env_checker import check_env

from trieline.common.numbers import MAX_TASK_ID, MAX_TASKS
from trieline.envs.protocols import Demonstrable, Finishable, Forkable, Listed, Solvable
from trieline.envs.registry import make_env
from trieline.envs.returns import Outcome, Start, checked_finish, checked_reset, checked_step

MAX_TURNS = 200
"""After which an episode is held to be endless."""
SEEDS = range(3)
SPLIT_SEEDS = range(40)
"""Tasks drawn from each split and level, to be compared."""
MAX_LISTED = 50
"""Tasks of each split that are tried, evenly out of all that are listed."""
WRONG = "I would rather not say."
HOSTILE = (
    "",
    "\x00",
    "\ud800\udfff",
    "\u202e١٢٣",
    "9" * 5000,
    "(" * 5000,
    "a" * 100_000,
    "🙂" * 1000,
    "```python\n",
)

TextEnv = gymnasium.Env[str, str]


class ContractError(Exception):
    """The environment breaks the contract; the message says how."""


class NotOffered(Exception):  # no error
    """There is nothing to check."""


class Remark(Exception):  # no error
    """The contract is kept, and there is something to know."""


class Subject:
    """What is checked: makes fresh instances of it."""

    def __init__(self, env_id: str, kwargs: dict[str, Any]) -> None:
        self.env_id = env_id
        self.kwargs = kwargs
        env = self.make()
        levels = getattr(env, "levels", None)
        self.levels = range(levels) if isinstance(levels, int) else None
        self.has_split = _takes(type(env), "split")
        _close(env)

    def make(self, **kwargs: Any) -> TextEnv:
        return make_env(self.env_id, **{**self.kwargs, **kwargs}).unwrapped

    def tasks(self) -> Iterator[tuple[TextEnv, Start]]:
        """A new episode of each level and seed."""
        for level in self.levels or (None,):
            env = self.make()
            for seed in SEEDS:
                yield env, _reset(env, seed, level)
            _close(env)


def _takes(kind: type, name: str) -> bool:
    """Whether a class takes an argument of this name, which it may hand on to the one it is made of."""
    for maker in (vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base)):
        parameters = inspect.signature(maker).parameters
        if name in parameters:
            return True
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
            return False
    return False


def _reset(env: TextEnv, seed: int, level: int | None = None) -> Start:
    return checked_reset(env.reset(seed=seed, options=None if level is None else {"level": level}))


def _reset_to(env: TextEnv, task_id: str) -> Start:
    """To a task by its name, whatever the seed says."""
    start = checked_reset(env.reset(seed=SEEDS.stop, options={"task_id": task_id}))
    named = start.info.get("task_id")
    _expect(named == task_id, f"expected task {task_id!r}, as asked for, in the info of reset, got {named!r}")
    return start


def _step(env: TextEnv, action: str) -> Outcome:
    return checked_step(env.step(action))


def _close(env: TextEnv) -> None:
    """What goes wrong here is for one check to say."""
    with contextlib.suppress(Exception):
        env.close()


def _play(env: TextEnv, actions: Iterator[str]) -> tuple[float, dict[str, Any], list[str]]:
    """Step until the episode ends: total reward, last info, observations."""
    total, observations = 0.0, []
    for _ in range(MAX_TURNS):
        outcome = _step(env, next(actions))
        observations.append(outcome.observation)
        total += outcome.reward
        if outcome.terminated or outcome.truncated:
            return total, dict(outcome.info), observations
    msg = f"expected an episode to end within {MAX_TURNS} turns"
    raise ContractError(msg)


def _expect(holds: bool, message: str) -> None:
    if not holds:
        raise ContractError(message)


def _gymnasium_contract(subject: Subject) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(gymnasium.make(subject.env_id, **subject.kwargs).unwrapped)


def _seeds_repeat(subject: Subject) -> None:
    for level in subject.levels or (None,):
        for seed in SEEDS:
            first, second = (_reset(subject.make(), seed, level).observation for _ in range(2))
            _expect(first == second, f"seed {seed}: expected {first!r} again, got {second!r}")


def _task_ids_repeat(subject: Subject) -> None:
    for env, start in subject.tasks():
        task_id = start.info.get("task_id")
        if not isinstance(task_id, str):
            msg = f"expected info['task_id'] as a text, got {task_id!r}"
            raise ContractError(msg)
        for other in (env, subject.make()):
            again = _reset_to(other, task_id).observation
            _expect(
                again == start.observation, f"task {task_id!r}: expected {start.observation!r}, got {again!r}"
            )


def _listed_tasks_are_there(subject: Subject) -> None:
    env, other = subject.make(), subject.make()
    if not (isinstance(env, Listed) and isinstance(other, Listed)):
        reason = "task_ids()"
        raise NotOffered(reason)
    listed = {split: env.task_ids(split) for split in ("train", "test")}
    for split, ids in listed.items():
        _expect(
            isinstance(ids, Sequence) and not isinstance(ids, str) and all(isinstance(i, str) for i in ids),
            f"{split}: expected a sequence of texts from task_ids, got {ids!r:.80}",
        )
        _expect(
            len({*ids}) == len(ids), f"{split}: expected each task once, got {len(ids) - len({*ids})} again"
        )
        longest = max([len(task) for task in ids], default=0)
        _expect(
            len(ids) <= MAX_TASKS and longest <= MAX_TASK_ID,
            f"{split}: expected at most {MAX_TASKS} tasks and {MAX_TASK_ID} characters in the name of each, "
            f"got {len(ids)} and {longest}",
        )
        _expect([*other.task_ids(split)] == [*ids], f"{split}: expected the same list from another instance")
        for task_id in ids[:: max(1, len(ids) // MAX_LISTED)]:
            _reset_to(other, task_id)
    _expect(bool(listed["train"]), "expected tasks to train on, got none")
    common = {*listed["train"]} & {*listed["test"]}
    _expect(not common, f"expected no task in both splits, got {sorted(common)[:5]}")


def _expert_wins(subject: Subject) -> None:
    for env, start in subject.tasks():
        if isinstance(env, Demonstrable):
            reward, info, _ = _play(env, env.demonstrate())
        elif isinstance(env, Solvable) and (solution := env.solution()) is not None:
            reward, info, _ = _play(env, iter([solution]))
        else:
            reason = "neither demonstrate() nor a solution()"
            raise NotOffered(reason)
        _expect(
            reward == 1.0,
            f"expected a reward of 1 for the expert on {start.observation!r}, got {reward}: {info}",
        )
        _expect(
            isinstance(info.get("score"), dict), f"expected info['score'] as a dict at the end, got {info}"
        )


def _solution_wins(subject: Subject) -> None:
    solved = 0
    for env, start in subject.tasks():
        if not isinstance(env, Solvable):
            reason = "solution()"
            raise NotOffered(reason)
        solution = env.solution()
        if solution is not None:
            solved += 1
            reward = _step(env, solution).reward
            _expect(
                reward == 1.0,
                f"expected a reward of 1 for {solution!r} on {start.observation!r}, got {reward}",
            )
    if not solved:
        reason = "solution() is None for all tasks tried"
        raise NotOffered(reason)


def _wrong_loses(subject: Subject) -> None:
    for env, start in subject.tasks():
        reward, info, _ = _play(env, iter([WRONG] * MAX_TURNS))
        _expect(
            reward < 1.0, f"expected less than 1 for {WRONG!r} on {start.observation!r}, got {reward}: {info}"
        )


def _forks_are_equal(subject: Subject) -> None:
    for env, _ in subject.tasks():
        if not isinstance(env, Forkable):
            reason = "fork()"
            raise NotOffered(reason)
        # In the middle of the episode where there is one.
        outcome = _step(env, WRONG)
        if outcome.terminated or outcome.truncated:
            _reset(env, 0)
        try:
            fork, second = env.fork(), env.fork()
        except NotImplementedError as error:
            reason = f"fork() of this one: {error}"
            raise NotOffered(reason) from error
        plays = [_play(world, iter([WRONG] * MAX_TURNS)) for world in (fork, env, second)]
        _expect(plays[0] == plays[1] == plays[2], f"expected equal episodes from a fork, got {plays}")


def _splits_are_disjoint(subject: Subject) -> None:
    if not subject.has_split:
        reason = "a constructor argument 'split'"
        raise NotOffered(reason)
    drawn: dict[str, set[str]] = {"train": set(), "test": set()}
    for split, ids in drawn.items():
        env = subject.make(split=split)
        for level in subject.levels or (None,):
            ids.update(str(_reset(env, seed, level).info["task_id"]) for seed in SPLIT_SEEDS)
    common = drawn["train"] & drawn["test"]
    _expect(not common, f"expected no task in both splits, got {sorted(common)[:5]}")


def _any_text_is_an_action(subject: Subject) -> None:
    env = subject.make()
    for text in HOSTILE:
        _reset(env, 0)
        outcome = _step(env, text)
        _expect(
            env.observation_space.contains(outcome.observation),
            f"expected a text of the space, got {outcome.observation!r}",
        )
        _expect(outcome.reward < 1.0, f"expected less than 1 for {text[:40]!r}, got {outcome.reward}")


def _cut_episodes_are_graded(subject: Subject) -> None:
    for env, start in subject.tasks():
        if not isinstance(env, Finishable):
            reason = "finish()"
            raise NotOffered(reason)
        # Once at the very start, once in the middle of the episode where there is one.
        for turns in range(2):
            outcome = [_step(env, WRONG) for _ in range(turns)]
            if any(turn.terminated or turn.truncated for turn in outcome):
                break
            _, info = checked_finish(env.finish())
            _expect(
                isinstance(info.get("score"), dict),
                f"expected info['score'] as a dict from finish, got {info}",
            )
            task_id = start.info.get("task_id")
            _expect(
                info.get("task_id") == task_id,
                f"expected task {task_id!r} in the info of finish, got {info.get('task_id')!r}",
            )
            _reset_to(env, str(task_id))


def _closes(subject: Subject) -> None:
    """Training closes after every episode, and also what was never reset or stopped in the middle."""
    for turns in range(3):
        env = subject.make()
        if turns:
            _reset(env, 0)
        if turns > 1:
            _step(env, WRONG)
        env.close()


def _leaves_the_process_alone(subject: Subject) -> None:
    before, alarm = _folder(), signal.getitimer(signal.ITIMER_REAL)[0]
    for env, _ in subject.tasks():
        _step(env, WRONG)
    left = signal.getitimer(signal.ITIMER_REAL)[0]
    _expect(
        bool(alarm) or not left,
        f"expected no alarm left running, got one in {left:.1f} s: it would end the worker",
    )
    if (after := _folder()) != before:
        remark = (
            f"it changes the working folder, here to {after}. Training goes on; but all episodes of a worker "
            "share the folder, so relative paths in them and in other environments may not be found"
        )
        raise Remark(remark)


def _folder() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return "one that is gone"


CHECKS: dict[str, Callable[[Subject], None]] = {
    "Gymnasium's check_env passes": _gymnasium_contract,
    "a seed gives the same task again": _seeds_repeat,
    "a task_id gives the same task again": _task_ids_repeat,
    "listed tasks can be played, each in one split": _listed_tasks_are_there,
    "the expert scores 1": _expert_wins,
    "the solution scores 1": _solution_wins,
    "a wrong answer does not": _wrong_loses,
    "a fork goes on as the original does": _forks_are_equal,
    "no task is in both splits": _splits_are_disjoint,
    "any Unicode text is an action": _any_text_is_an_action,
    "an episode that is cut can be graded": _cut_episodes_are_graded,
    "close() works whenever it is called": _closes,
    "its process is left as it was": _leaves_the_process_alone,
}
