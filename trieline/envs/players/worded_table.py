"""A game of PettingZoo with discrete actions, played in words: its actions by name, its observations told.

Legal are the actions of `action_mask`, in the observation or in `infos`, as PettingZoo's own games have it;
all of them where there is no mask.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from pettingzoo.utils.wrappers import BaseWrapper

from trieline.envs.errors import BadReturnError, EnvError
from trieline.envs.game.move_names import MISTAKEN, named_actions
from trieline.envs.game.spiel_game import OBSERVATION
from trieline.envs.text_env import ACTION_LENGTH
from trieline.envs.text_space import Text

Tell = Callable[[Any, str], str]
"""Observation and agent to what the agent reads."""
Name = Callable[[int, str], str]
"""Action and agent to the name of the action."""
LOST = -1.0
"""Reward of who names no move, once nothing is forgiven; the others get 0. So in PettingZoo's own wrapper."""


class WordedTable(BaseWrapper[str, str, str]):
    """A reply names the action in its last line. `infos` of who is to move have the `moves`."""

    def __init__(
        self,
        env: Any,
        *,
        tell: Tell | None = None,
        name: Name | None = None,
        mistakes: int = 2,
    ) -> None:
        """`tell`: None where observations are text. `name`: None for the actions' numbers.

        Raises:
            EnvError: an agent's actions are not discrete.
        """
        super().__init__(env)
        for agent in env.possible_agents:
            if not isinstance(space := env.action_space(agent), Discrete):
                msg = f"expected discrete actions or texts of {agent}, got {space}"
                raise EnvError(msg)
        self.tell = tell
        self.name = name
        self.mistakes = mistakes
        self.invalid: dict[str, int] = {}
        self.mistaken = False
        self._observations = Text(OBSERVATION)
        self._actions = Text(ACTION_LENGTH)

    def observation_space(self, agent: str) -> Text:
        return self._observations

    def action_space(self, agent: str) -> Text:
        return self._actions

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        self.invalid, self.mistaken = {}, False
        self.env.reset(seed=seed, options=options)
        self._note_moves()

    def observe(self, agent: str) -> str:
        text = self._told(agent)
        if agent != self.agent_selection or not (names := [*self._names()]):
            return text
        remark = f"{MISTAKEN}\n" if self.mistaken else ""
        ask = f"You are {agent}. Choose one move: {', '.join(names)}."
        return f'{remark}{text}\n{ask} Reply with only the move, like "{names[0]}".'

    def step(self, action: str | None) -> None:
        agent = self.agent_selection
        names = self._names()
        if not names:
            self.env.unwrapped._was_dead_step(action)
            return
        named = named_actions(str(action), names)
        self.mistaken = len(named) != 1
        if not self.mistaken:
            self.env.step(names[named[0]])
        else:
            self.invalid[agent] = self.invalid.get(agent, 0) + 1
            self.env.unwrapped._cumulative_rewards[agent] = 0.0
            self.env.unwrapped.rewards = dict.fromkeys(self.agents, 0.0)
            if self.invalid[agent] > self.mistakes:
                self._forfeit(agent)
        self._note_moves()

    def _forfeit(self, agent: str) -> None:
        game = self.env.unwrapped
        self.mistaken = False
        game.terminations = dict.fromkeys(self.agents, True)
        game.rewards[agent] = LOST
        game._accumulate_rewards()
        game._deads_step_first()

    def _names(self) -> dict[str, int]:
        """Of the legal actions of who is to move; nothing where that one's game is over."""
        agent = self.agent_selection
        if agent not in self.agents or self.terminations[agent] or self.truncations[agent]:
            return {}
        count = int(self.env.action_space(agent).n)
        mask = self._mask(agent)
        legal = range(count) if mask is None else np.flatnonzero(np.asarray(mask)[:count]).tolist()
        start = int(self.env.action_space(agent).start)
        names: dict[str, int] = {}
        for number in legal:
            name = str(number + start) if self.name is None else self.name(number + start, agent)
            names[f"{name} #{number + start}" if name in names or not name else name] = number + start
        if not names:
            msg = f"expected a legal action of {agent}, got a mask without any"
            raise BadReturnError(msg)
        return names

    def _mask(self, agent: str) -> Any:
        observation = self.env.observe(agent)
        if isinstance(observation, dict) and "action_mask" in observation:
            return observation["action_mask"]
        return self.infos[agent].get("action_mask")

    def _note_moves(self) -> None:
        if names := self._names():
            agent = self.agent_selection
            self.env.unwrapped.infos[agent] = {**self.infos[agent], "moves": [*names]}

    def _told(self, agent: str) -> str:
        observation = self.env.observe(agent)
        if self.tell is not None:
            return self.tell(observation, agent)
        if isinstance(observation, dict):
            observation = observation.get("observation")
        if not isinstance(observation, str):
            msg = (
                f"expected a text as observation of {agent}, or a function `tell` that makes one of it, got "
                f"{type(observation).__name__}"
            )
            raise BadReturnError(msg)
        return observation
