"""One environment in use: blocking calls with deadlines, and copies in the middle of an episode.

Whatever goes wrong ends as an `EnvFailure` with the cause that the trajectory tree records.
"""

import asyncio
import copy
import importlib
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator

from trieline.actors.broken_episodes import BrokenEpisodes
from trieline.actors.env_returns import Ending, Step, Task, checked_finish, checked_reset, checked_step
from trieline.actors.env_threads import EnvThreads, call_with_deadline, raised
from trieline.actors.errors import ActorError, EnvFailure, EnvironmentSetupError, ForkUnsupportedError
from trieline.envs import make_env
from trieline.envs.errors import EnvError, SandboxError
from trieline.envs.registry import load_env_modules
from trieline.wire.config import EnvConfig

log = logging.getLogger(__name__)

T = TypeVar("T")
TextEnv = gymnasium.Env[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskChoice:
    """Which task an episode is of."""

    seed: int
    level: int | None = None
    """Difficulty, where the environment is asked for one."""
    task_id: str | None = None
    """That very task. None: the one that the seed draws."""
    split: str | None = None
    """Passed to the environment's constructor. None: the environment is made as its config says."""

    @property
    def options(self) -> dict[str, Any] | None:
        """What `reset` is asked for; None: for nothing."""
        asked = {"level": self.level, "task_id": self.task_id}
        return {name: value for name, value in asked.items() if value is not None} or None


class EnvHost:
    """Makes the environments of one event loop, and closes them in the background."""

    def __init__(self, *, threads: int, max_stuck: int, call_timeout_s: float) -> None:
        self.threads = EnvThreads(threads, max_stuck=max_stuck)
        self.call_timeout_s = call_timeout_s
        self.broken = BrokenEpisodes()
        self.unforkable: set[str] = set()
        """Ids of the environments that turned out to have no copies."""
        self._closing: set[asyncio.Task[None]] = set()

    async def open(self, config: EnvConfig, choice: TaskChoice) -> "tuple[EnvSession, Task]":
        """Make an environment and reset it to the chosen task.

        Raises:
            EnvFailure: it could not be made or reset, hung, or returned what no environment may return.
            StuckEnvironmentsError: see `EnvThreads.call`.
        """
        session = EnvSession(config.id, self)
        try:
            return session, await session.start(config, choice)
        except BaseException:
            session.close()
            raise

    def close_later(self, what: str, close: Callable[[], object]) -> None:
        """Close something in a thread without making an episode wait for it."""
        task = asyncio.get_running_loop().create_task(self._close(what, close))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Wait, one deadline long, until every environment is closed."""
        if self._closing:
            _, pending = await asyncio.wait(self._closing, timeout=self.call_timeout_s)
            if pending:
                log.warning("%d environments did not close within %g s", len(pending), self.call_timeout_s)
            for task in pending:
                task.cancel()
        self.threads.close()

    async def _close(self, what: str, close: Callable[[], object]) -> None:
        try:
            await self.threads.call(what, close, self.call_timeout_s)
        except (EnvFailure, ActorError) as error:
            log.warning("%s", error)
        except Exception:
            log.warning("%s raised", what, exc_info=True)


class EnvSession:
    """One environment instance. One call at a time; after an `EnvFailure` only `close` makes sense."""

    def __init__(self, env_id: str, host: EnvHost, env: TextEnv | None = None) -> None:
        self._env_id = env_id
        self._host = host
        self._env = env
        self._timeout_s = host.call_timeout_s
        self._lost = False  # a call hangs in it: that call's thread closes it, if it ever comes back

    async def start(self, config: EnvConfig, choice: TaskChoice) -> Task:
        """Make and reset, in one call and one deadline."""
        self._timeout_s = config.episode.turn_timeout_s or self._host.call_timeout_s

        def make_and_reset() -> object:
            self._env = make_split(config, choice.split)
            return self._env.reset(seed=choice.seed, options=choice.options)

        call = "reset" if choice.task_id is None else f"reset to the task {choice.task_id!r}"
        return checked_reset(await self._call(call, make_and_reset), self._env_id, choice.seed)

    async def step(self, action: str) -> Step:
        """One action.

        Raises:
            EnvFailure, StuckEnvironmentsError: as `EnvHost.open`.
        """
        env = self._open_env()
        return checked_step(await self._call("step", lambda: env.step(action)), self._env_id)

    async def call(self, name: str, function: "Callable[[TextEnv], T]") -> T:
        """Another blocking call.

        Raises:
            EnvFailure, StuckEnvironmentsError: as `EnvHost.open`.
        """
        env = self._open_env()
        return await self._call(name, lambda: function(env))

    async def finish(self) -> Ending | None:
        """What the environment gives for an episode that a limit cuts here; None if it has no `finish`.

        Raises:
            EnvFailure, StuckEnvironmentsError: as `EnvHost.open`.
        """
        env = self._open_env()
        finish = env_method(env, "finish")
        if finish is None:
            return None
        return checked_finish(await self._call("finish", finish), self._env_id)

    async def fork(self) -> "EnvSession":
        """An independent copy in the same state.

        Raises:
            ForkUnsupportedError: the environment has no `fork`, or says that it can't.
            EnvFailure, StuckEnvironmentsError: as `EnvHost.open`.
        """
        env = self._open_env()
        copies: list[TextEnv] = []

        def fork() -> None:
            copies.append(fork_env(env))

        def close_both() -> None:
            for open_env in (env, *copies):
                open_env.close()

        await self._call("fork", fork, late=close_both)
        session = EnvSession(self._env_id, self._host, copies[0])
        session._timeout_s = self._timeout_s
        return session

    def close(self) -> None:
        """Close the environment in the background. Idempotent."""
        if self._env is None or self._lost:
            return
        env, self._env = self._env, None
        self._host.close_later(f"{self._env_id}: close", env.close)

    def _open_env(self) -> TextEnv:
        assert self._env is not None, "the session is closed"
        return self._env

    async def _call(
        self, name: str, function: Callable[[], T], late: Callable[[], object] | None = None
    ) -> T:
        what = f"{self._env_id}: {name}"
        threads = self._host.threads
        try:
            return await threads.call(what, function, self._timeout_s, late=late or self._close_late)
        except (ActorError, EnvFailure, asyncio.CancelledError) as error:
            self._lost = not isinstance(error, EnvFailure) or error.cause == "timeout"
            raise
        except ForkUnsupportedError:
            raise
        except SandboxError as error:
            raise EnvFailure(cause="sandbox", reason=f"{what} failed in its sandbox: {error}") from error
        except Exception as error:
            log.debug("%s raised", what, exc_info=True)
            raise raised(what, error) from error

    def _close_late(self) -> None:
        if self._env is not None:
            self._env.close()


def fork_env(env: TextEnv) -> TextEnv:
    """Copy an environment with its wrappers (a step counter in a wrapper belongs to the state too).

    Raises:
        ForkUnsupportedError: it has no `fork`, or raises NotImplementedError.
    """
    fork = getattr(type(env), "fork", None)
    if fork is not None:
        try:
            copied: TextEnv = fork(env)
        except NotImplementedError as error:
            raise ForkUnsupportedError(str(error)) from error
        return copied
    if not isinstance(env, gymnasium.Wrapper):
        msg = f"{type(env).__name__} has no fork()"
        raise ForkUnsupportedError(msg)
    inner = fork_env(env.env)
    wrapper: TextEnv = object.__new__(type(env))
    for name, value in vars(env).items():
        wrapper.__dict__[name] = inner if name == "env" else copy.deepcopy(value)
    return wrapper


def env_method(env: TextEnv, name: str) -> Callable[..., object] | None:
    """An optional method of the environment or one of its wrappers."""
    try:
        method: Callable[..., object] = env.get_wrapper_attr(name)
    except AttributeError:
        return None
    return method


def make_split(config: EnvConfig, split: str | None) -> TextEnv:
    """Make the environment of `config`; `split`, if not None, wins over one among its kwargs."""
    kwargs: dict[str, Any] = dict(config.kwargs)
    if split is not None:
        kwargs["split"] = split
    return make_env(config.id, **kwargs)


def first_task(config: EnvConfig, timeout_s: float) -> Task:
    """Make the environment and reset it once, to see that it can be played here.

    Raises:
        EnvironmentSetupError: it can't be made or reset, hangs, or returns what no environment may return.
    """

    def reset_once() -> object:
        env = make_split(config, None)
        try:
            return env.reset(seed=0)
        finally:
            env.close()

    try:
        return checked_reset(call_with_deadline(f"{config.id}: reset", reset_once, timeout_s), config.id, 0)
    except (EnvFailure, EnvError) as error:
        raise EnvironmentSetupError(str(error)) from error


def check_env(config: EnvConfig) -> None:
    """Look an environment up without making it.

    Raises:
        EnvironmentSetupError: it is not registered, or its module can't be imported.
    """
    _env_spec(config.id)


def split_asked(config: EnvConfig, split: str | None) -> str | None:
    """The split to make the environment with: None where none is asked for, or it has none.

    Raises:
        EnvironmentSetupError: as `check_env`.
    """
    return split if split is not None and takes_split(config) else None


def takes_split(config: EnvConfig) -> bool:
    """Does the environment's constructor know `split`?

    Raises:
        EnvironmentSetupError: as `check_env`.
    """
    creator = _creator(config)
    parameters = inspect.signature(creator).parameters if creator is not None else {}
    return "split" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def has_tables(config: EnvConfig) -> bool:
    """Does the environment's class have games with all their seats (`protocols.Tabled`)?

    Raises:
        EnvironmentSetupError: as `check_env`.
    """
    return hasattr(_creator(config), "table")


def _creator(config: EnvConfig) -> Callable[..., object] | None:
    spec = _env_spec(config.id)
    return load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point


def _env_spec(env_id: str) -> EnvSpec:
    """`env_id` as in a config: `[module:]namespace/Name-v0`, the module imported for what it registers."""
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        elif name not in gymnasium.registry:
            load_env_modules()
        return gymnasium.spec(name)
    except (gymnasium.error.Error, ImportError) as error:
        msg = f"expected a registered environment, got {env_id!r}: {error}"
        raise EnvironmentSetupError(msg) from error
