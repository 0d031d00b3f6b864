"""Hold an environment against the contract: Gymnasium's own checker, and what training asks for besides.

Works on any environment of texts. What is optional (levels, splits, solution, fork) is checked where it is
offered, and said to be missing where it is not.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium
from gymnasium.utils.env_checker import check_env

from trieline.envs.protocols import Demonstrable, Forkable, Solvable
from trieline.envs.registry import make_env

MAX_TURNS = 200
"""After which an episode is held to be endless."""
SEEDS = range(3)
SPLIT_SEEDS = range(40)
"""Tasks drawn from each split and level, to be compared."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """One line of the report. `detail` says what was expected and what came, or what is not offered."""

    name: str
    passed: bool
    detail: str = ""


class ContractError(Exception):
    """The environment breaks the contract; the message says how."""


class NotOffered(Exception):  # no error
    """There is nothing to check."""


def check_environment(env_id: str, **kwargs: Any) -> list[CheckResult]:
    """Run all checks. Raises EnvError only if the environment can't be made at all."""
    make_env(env_id, **kwargs).close()
    subject = Subject(env_id, kwargs)
    return [_run(name, check, subject) for name, check in CHECKS.items()]


def _run(name: str, check: "Callable[[Subject], None]", subject: "Subject") -> CheckResult:
    try:
        check(subject)
    except NotOffered as missing:
        return CheckResult(name=name, passed=True, detail=f"not offered: {missing}")
    except Exception as error:  # noqa: BLE001  # a boundary: code of others, and the error is the result
        return CheckResult(name=name, passed=False, detail=f"{type(error).__name__}: {error}")
    return CheckResult(name=name, passed=True)


class Subject:
    """What is checked: makes fresh instances of it."""

    def __init__(self, env_id: str, kwargs: dict[str, Any]) -> None:
        self.env_id = env_id
        self.kwargs = kwargs
        env = self.make()
        levels = getattr(env, "levels", None)
        self.levels = range(levels) if isinstance(levels, int) else None
        self.has_split = "split" in inspect.signature(type(env).__init__).parameters
        env.close()

    def make(self, **kwargs: Any) -> TextEnv:
        return make_env(self.env_id, **{**self.kwargs, **kwargs}).unwrapped

    def tasks(self) -> Iterator[tuple[TextEnv, str]]:
        """A new episode of each level and seed, and its first observation."""
        for level in self.levels or (None,):
            env = self.make()
            for seed in SEEDS:
                yield env, _reset(env, seed, level)[0]
            env.close()


def _reset(env: TextEnv, seed: int, level: int | None = None) -> tuple[str, dict[str, Any]]:
    return env.reset(seed=seed, options=None if level is None else {"level": level})


def _play(env: TextEnv, actions: Iterator[str]) -> tuple[float, dict[str, Any], list[str]]:
    """Step until the episode ends: total reward, last info, observations."""
    total, observations = 0.0, []
    for _ in range(MAX_TURNS):
        observation, reward, terminated, truncated, info = env.step(next(actions))
        _expect(isinstance(observation, str), f"expected a text as observation, got {type(observation)}")
        observations.append(observation)
        total += float(reward)
        if terminated or truncated:
            return total, info, observations
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
            first, second = (_reset(subject.make(), seed, level) for _ in range(2))
            _expect(first[0] == second[0], f"seed {seed}: expected {first[0]!r} again, got {second[0]!r}")


def _task_ids_repeat(subject: Subject) -> None:
    for env, observation in subject.tasks():
        _, info = env.reset(options={"task_id": _task_id(env)})
        again = env.reset(options={"task_id": info["task_id"]})[0]
        _expect(again == observation, f"task {info['task_id']}: expected {observation!r}, got {again!r}")


def _task_id(env: TextEnv) -> str:
    """Of the running episode: `task_id` is in every info, so one of a copy's reset tells it."""
    task_id = env.step(WRONG)[4].get("task_id")
    _expect(isinstance(task_id, str), f"expected info['task_id'] as a text, got {task_id!r}")
    return str(task_id)


def _expert_wins(subject: Subject) -> None:
    for env, observation in subject.tasks():
        if isinstance(env, Demonstrable):
            reward, info, _ = _play(env, env.demonstrate())
        elif isinstance(env, Solvable) and (solution := env.solution()) is not None:
            reward, info, _ = _play(env, iter([solution]))
        else:
            reason = "neither demonstrate() nor a solution()"
            raise NotOffered(reason)
        _expect(
            reward == 1.0, f"expected a reward of 1 for the expert on {observation!r}, got {reward}: {info}"
        )
        _expect(
            isinstance(info.get("score"), dict), f"expected info['score'] as a dict at the end, got {info}"
        )


def _solution_wins(subject: Subject) -> None:
    solved = 0
    for env, observation in subject.tasks():
        if not isinstance(env, Solvable):
            reason = "solution()"
            raise NotOffered(reason)
        solution = env.solution()
        if solution is not None:
            solved += 1
            reward = env.step(solution)[1]
            _expect(
                reward == 1.0, f"expected a reward of 1 for {solution!r} on {observation!r}, got {reward}"
            )
    if not solved:
        reason = "solution() is None for all tasks tried"
        raise NotOffered(reason)


def _wrong_loses(subject: Subject) -> None:
    for env, observation in subject.tasks():
        reward, info, _ = _play(env, iter([WRONG] * MAX_TURNS))
        _expect(reward < 1.0, f"expected less than 1 for {WRONG!r} on {observation!r}, got {reward}: {info}")


def _forks_are_equal(subject: Subject) -> None:
    for env, _ in subject.tasks():
        if not isinstance(env, Forkable):
            reason = "fork()"
            raise NotOffered(reason)
        # In the middle of the episode where there is one.
        _, _, terminated, truncated, _ = env.step(WRONG)
        if terminated or truncated:
            env.reset(seed=0)
        fork, second = env.fork(), env.fork()
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
            ids.update(str(_reset(env, seed, level)[1]["task_id"]) for seed in SPLIT_SEEDS)
    common = drawn["train"] & drawn["test"]
    _expect(not common, f"expected no task in both splits, got {sorted(common)[:5]}")


def _any_text_is_an_action(subject: Subject) -> None:
    env = subject.make()
    for text in HOSTILE:
        env.reset(seed=0)
        observation, reward, *_ = env.step(text)
        _expect(
            env.observation_space.contains(observation), f"expected a text of the space, got {observation!r}"
        )
        _expect(float(reward) < 1.0, f"expected less than 1 for {text[:40]!r}, got {reward}")


CHECKS: dict[str, Callable[[Subject], None]] = {
    "Gymnasium's check_env passes": _gymnasium_contract,
    "a seed gives the same task again": _seeds_repeat,
    "a task_id gives the same task again": _task_ids_repeat,
    "the expert scores 1": _expert_wins,
    "the solution scores 1": _solution_wins,
    "a wrong answer does not": _wrong_loses,
    "a fork goes on as the original does": _forks_are_equal,
    "no task is in both splits": _splits_are_disjoint,
    "any Unicode text is an action": _any_text_is_an_action,
}
