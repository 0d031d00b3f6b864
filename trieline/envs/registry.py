"""Find and make environments by id: ours, Gymnasium's, a module's, or those that a package announces."""

import difflib
import importlib
import importlib.metadata
import importlib.util
import logging
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium

from trieline.envs.errors import EnvError, UnknownEnvError

log = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "trieline.envs"
"""A package names a module under this group; importing it registers the package's environments."""
NAMESPACE = "trieline"
Turns = Literal["one", "several"]
Data = Literal["generated", "sample or own rows", "package"]
"""Where tasks come from: a generator; rows that ship, in whose place the user's own may come (`data=`); the
package of others that `extra` installs."""
SAMPLE: Data = "sample or own rows"
CLOSE_IDS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnEnv:
    """One of our environments. The class is imported when the first one is made."""

    name: str
    entry_point: str
    description: str
    turns: Turns = "one"
    """Whether its episodes may have several replies."""
    sandbox: bool = False
    """Whether it runs programs of the agent's, and so needs Docker or bubblewrap."""
    data: Data = "generated"
    licence: str = ""
    """Of the rows that ship, as SPDX names it. Empty where tasks are generated."""
    extra: str = ""
    """The one of `pip install trieline[...]` that it needs."""
    package: str = ""
    """What it imports of a package whose own needs exclude ours: it is installed by hand, without them."""
    needs: str = ""
    """The setting without which there is nothing to play, of a frame for environments of others."""

    @property
    def is_installed(self) -> bool:
        return not self.package or importlib.util.find_spec(self.package) is not None

    @property
    def id(self) -> str:
        return f"{NAMESPACE}/{self.name}-v0"

    @property
    def kind(self) -> str:
        """The folder of `trieline/envs` that it is in."""
        return self.entry_point.removeprefix("trieline.envs.").partition(".")[0]


OWN_ENVS = (
    OwnEnv(
        name="Arithmetic",
        entry_point="trieline.envs.math.arithmetic:Arithmetic",
        description="integer arithmetic, one turn; levels 0-5 from one-digit sums to three operands",
    ),
    OwnEnv(
        name="GuessNumber",
        entry_point="trieline.envs.game.guess_number:GuessNumber",
        description="find a hidden number by bisection; levels 0-4 from 3 numbers in 2 turns to 63 in 6",
        turns="several",
    ),
    OwnEnv(
        name="FrozenLake",
        entry_point="trieline.envs.game.frozen_lake:FrozenLake",
        description="walk to the goal around the holes; levels 0-4 from next to it to 6 x 6 maps",
        turns="several",
    ),
    OwnEnv(
        name="PythonFunction",
        entry_point="trieline.envs.code.python_function:PythonFunction",
        description="write a one-line Python function, tested in a sandbox; levels 0-2",
        sandbox=True,
    ),
    OwnEnv(
        name="Repair",
        entry_point="trieline.envs.code.repair:Repair",
        description="mend the wrong line of a function, tested in a sandbox; levels 0-3 up to a file",
        turns="several",
        sandbox=True,
    ),
    OwnEnv(
        name="Taxi",
        entry_point="trieline.envs.game.toy_text:Taxi",
        description="fetch a passenger through a small town; levels 0-4 from next to its goal to 20 moves",
        turns="several",
    ),
    OwnEnv(
        name="CliffWalking",
        entry_point="trieline.envs.game.toy_text:CliffWalking",
        description="walk along a cliff to the goal; levels 0-4 from next to it to 14 moves",
        turns="several",
    ),
    OwnEnv(
        name="Blackjack",
        entry_point="trieline.envs.game.toy_text:Blackjack",
        description="hit or stick against the dealer; 1 for a win, 0.5 for a draw",
        turns="several",
    ),
    OwnEnv(
        name="Wordle",
        entry_point="trieline.envs.game.wordle:Wordle",
        description="find a hidden word by the marks of guesses; levels 0-4 from 4 words of 3 letters",
        turns="several",
    ),
    OwnEnv(
        name="Countdown",
        entry_point="trieline.envs.game.countdown:Countdown",
        description="make a number out of others; levels 0-5 from the sum of two digits to 6 numbers",
        turns="several",
    ),
    OwnEnv(
        name="Sudoku",
        entry_point="trieline.envs.game.sudoku:Sudoku",
        description="fill a grid; levels 0-5 from one blank of 4 x 4 to 45 blanks of 9 x 9",
        turns="several",
    ),
    OwnEnv(
        name="Hanoi",
        entry_point="trieline.envs.game.hanoi:Hanoi",
        description="the towers of Hanoi, a move a turn; levels 0-4 from 1 move to 31",
        turns="several",
    ),
    OwnEnv(
        name="OpenSpiel",
        entry_point="trieline.envs.game.open_spiel:OpenSpiel",
        description="over 80 board and card games (trieline[openspiel]); levels by opponent",
        turns="several",
        extra="openspiel",
    ),
    OwnEnv(
        name="TextWorld",
        entry_point="trieline.envs.game.text_world:TextWorld",
        description="text adventures of TextWorld's generator; levels 0-5 from 1 command to 6 in 5 rooms",
        turns="several",
        extra="textworld",
        package="textworld",
    ),
    OwnEnv(
        name="TextArena",
        entry_point="trieline.envs.game.text_arena:TextArena",
        description="games of TextArena for one player, or two with an opponent; by name",
        turns="several",
        extra="textarena",
        package="textarena",
    ),
    OwnEnv(
        name="GSM8K",
        entry_point="trieline.envs.question.published:GSM8K",
        description="grade-school mathematics in the columns of GSM8K, a sample of 16; levels 0-2 by steps",
        data=SAMPLE,
        licence="Apache-2.0",
    ),
    OwnEnv(
        name="MATH",
        entry_point="trieline.envs.question.published:MATH",
        description="competition mathematics in the columns of MATH, a sample of 20; the published levels",
        data=SAMPLE,
        licence="Apache-2.0",
    ),
    OwnEnv(
        name="AIME",
        entry_point="trieline.envs.question.published:AIME",
        description="problems with an integer up to 999 as answer, as in AIME; a sample of 8",
        data=SAMPLE,
        licence="Apache-2.0",
    ),
    OwnEnv(
        name="Questions",
        entry_point="trieline.envs.question.questions:Questions",
        description="your own questions and answers: numbers, formulas, choices, short texts; a sample of 12",
        data=SAMPLE,
        licence="Apache-2.0",
    ),
    OwnEnv(
        name="HumanEval",
        entry_point="trieline.envs.code.completion:HumanEval",
        description="complete a Python function, as in HumanEval; a sample of 8",
        sandbox=True,
        data=SAMPLE,
        licence="Apache-2.0",
    ),
    OwnEnv(
        name="MBPP",
        entry_point="trieline.envs.code.completion:MBPP",
        description="write a small Python function, as in MBPP; a sample of 8",
        sandbox=True,
        data=SAMPLE,
        licence="Apache-2.0",
    ),
    OwnEnv(
        name="Stdio",
        entry_point="trieline.envs.code.stdio:Stdio",
        description="programs for contests, as in APPS and LiveCodeBench; a sample of 10, levels 0-2",
        sandbox=True,
        data=SAMPLE,
        licence="Apache-2.0",
    ),
    OwnEnv(
        name="ReasoningGym",
        entry_point="trieline.envs.reasoning.reasoning_env:ReasoningEnv",
        description="a hundred kinds of generated puzzles of reasoning-gym; levels 0-4 of its curricula",
        extra="reasoning",
    ),
    OwnEnv(
        name="Shell",
        entry_point="trieline.envs.tools.shell_env:Shell",
        description="tasks for a shell in a small sandbox, judged by a script; a sample of 13, levels 0-2",
        turns="several",
        sandbox=True,
        data=SAMPLE,
        licence="Apache-2.0",
    ),
    OwnEnv(
        name="Warehouse",
        entry_point="trieline.envs.tools.warehouse:Warehouse",
        description="a stock of goods behind six functions; levels 0-4 from one call to conditions",
        turns="several",
    ),
    OwnEnv(
        name="BFCL",
        entry_point="trieline.envs.tools.bfcl.bfcl_env:BFCL",
        description="BFCL's conversations about eight simulated services, by calls of tools; levels 0-3",
        turns="several",
        data="package",
        licence="Apache-2.0",
        package="bfcl_eval",
    ),
    OwnEnv(
        name="Verifiers",
        entry_point="trieline.envs.foreign.verifiers_env:VerifiersEnv",
        description="an environment of verifiers, wherever it is installed; docs/foreign_environments.md",
        turns="several",
        data="package",
        licence="of the environment",
        extra="verifiers",
        needs="env",
    ),
    OwnEnv(
        name="OpenEnv",
        entry_point="trieline.envs.foreign.open_env:OpenEnv",
        description="the world of an OpenEnv server, over its WebSocket; docs/foreign_environments.md",
        turns="several",
        data="package",
        licence="of the environment",
        extra="openenv",
        needs="url or command",
    ),
    OwnEnv(
        name="PettingZoo",
        entry_point="trieline.envs.players.petting_zoo:PettingZoo",
        description="a game of several players with PettingZoo's AEC interface; docs/players.md",
        turns="several",
        data="package",
        licence="of the environment",
        extra="players",
        needs="env",
    ),
    OwnEnv(
        name="Tau2",
        entry_point="trieline.envs.tools.tau2.tau2_env:Tau2",
        description="tau2-bench's customers, served by tools and rules: telecom, airline, retail; levels 0-3",
        turns="several",
        data="package",
        licence="MIT AND Apache-2.0",
        extra="tau2",
        package="tau2",
    ),
    OwnEnv(
        name="SWE",
        entry_point="trieline.envs.swe.repository_env:RepositoryEnv",
        description="mend a repository with a shell, many turns: tasks as in SWE-bench, or a sample of 4",
        turns="several",
        sandbox=True,
        data=SAMPLE,
        licence="Apache-2.0",
    ),
)


def register_own() -> None:
    """Make ours known to Gymnasium. Harmless when repeated."""
    for env in OWN_ENVS:
        if env.id not in gymnasium.registry:
            gymnasium.register(id=env.id, entry_point=env.entry_point)


def load_env_modules() -> None:
    """Import the modules that installed packages announce. One that fails is logged and left out."""
    for entry_point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        try:
            entry_point.load()
        except Exception:  # a boundary: code of other packages
            log.warning(
                "could not load %s, announced under %r", entry_point.value, ENTRY_POINT_GROUP, exc_info=True
            )


def make_env(env_id: str, **kwargs: Any) -> "gymnasium.Env[str, str]":
    """Make an environment by id, `module:namespace/Name-v0` if a module must be imported to register it.

    Raises:
        UnknownEnvError: no such module or id; the message names the closest ids known.
        EnvError: the environment does not take these arguments, or refuses them.
    """
    name = load_env(env_id)
    try:
        return gymnasium.make(name, disable_env_checker=True, **kwargs)
    except gymnasium.error.UnregisteredEnv as error:
        raise UnknownEnvError(_unknown(env_id, name)) from error
    except (TypeError, gymnasium.error.Error) as error:
        msg = f"{env_id} could not be made with {kwargs}: {error}"
        raise EnvError(msg) from error


def load_env(env_id: str) -> str:
    """Import what registers an environment. Returns its id as Gymnasium knows it, if it does.

    Raises:
        EnvError: its module can't be imported.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        _import(module, env_id)
    elif name not in gymnasium.registry:
        load_env_modules()
    return name


def _import(module: str, env_id: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            # The module is there, and something that it imports is not.
            msg = f"{env_id}: {module} can't be imported: {error}"
            raise EnvError(msg) from error
        msg = f"unknown environment {env_id!r}: there is no module {error.name!r} to import"
        raise UnknownEnvError(msg) from error


def _unknown(env_id: str, name: str) -> str:
    close = difflib.get_close_matches(name, gymnasium.registry, n=CLOSE_IDS, cutoff=0.5)
    # A forgotten namespace or version is the commonest slip, and ratios miss it.
    bare = name.rpartition("/")[2].partition("-v")[0].lower()
    close += [
        known for known in gymnasium.registry if known.rpartition("/")[2].partition("-v")[0].lower() == bare
    ]
    known = list(dict.fromkeys(close)) or [env.id for env in OWN_ENVS]
    return f"unknown environment {env_id!r}; the closest known ids are {', '.join(known[: CLOSE_IDS + 1])}"
