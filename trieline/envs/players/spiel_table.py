"""A game of OpenSpiel with all its seats, as an environment of PettingZoo: observations and actions are text.

What a seat is shown comes of what OpenSpiel says that this player may know, and of nothing else: its own
information state where the game hides something, the board where it does not.
"""

from collections.abc import Container
from typing import Any, ClassVar

import numpy as np
from pettingzoo import AECEnv

from trieline.envs.game.move_names import MISTAKEN, named_actions
from trieline.envs.game.spiel_game import OBSERVATION, SpielGame, action_names, drawn
from trieline.envs.text_env import ACTION_LENGTH
from trieline.envs.text_space import Text


class SpielTable(AECEnv[str, str, str]):
    """Reward of each seat at the end: its return between the game's smallest (0) and largest (1).

    A reply whose last line does not name exactly one legal move is asked for again. One more of them than
    `mistakes` loses: that seat gets 0, and the others share what there is, where the returns of a game always
    add up to the same; else they get 0 as well. `infos` of the seat that is to move have its `moves`, and
    those of every seat a `score` at the end.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "name": "trieline_open_spiel_v0",
        "render_modes": [],
        "is_parallelizable": False,
    }

    def __init__(
        self,
        game: SpielGame,
        *,
        mistakes: int = 2,
        opening: int = 0,
        earlier: Container[int] = frozenset(),
    ) -> None:
        """`opening`: a game begins with at most so many random moves, which its seed draws.

        `earlier`: seats for an earlier version of the policy, which their `infos` say.
        """
        super().__init__()
        self.game = game
        self.mistakes = mistakes
        self.opening = opening
        self.earlier = earlier
        self.possible_agents = [f"player_{seat + 1}" for seat in range(game.players)]
        self.seats = {agent: seat for seat, agent in enumerate(self.possible_agents)}
        self._observations = Text(OBSERVATION)
        self._actions = Text(ACTION_LENGTH)
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> Text:
        return self._observations

    def action_space(self, agent: str) -> Text:
        return self._actions

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """`seed` decides all chance: the cards, the dice. Options are not known here."""
        self.agents = list(self.possible_agents)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        self._rng = np.random.default_rng(seed)
        self._state = self.game.opened(self._rng, self.opening)
        self._names: dict[str, int] = {}
        self._heard: dict[str, list[str]] = {agent: [] for agent in self.agents}
        self._invalid = dict.fromkeys(self.agents, 0)
        self._moves = dict.fromkeys(self.agents, 0)
        self._mistaken = False
        self._ends: dict[str, str] = {}
        self._turn_to_next()

    def observe(self, agent: str) -> str:
        """What a seat may know at this moment, and the question if it is to move."""
        played = "\n".join(line for line in self._heard[agent] if line)
        if agent not in self._ends and agent == self.agent_selection:
            remark = f"{MISTAKEN}\n" if self._mistaken else ""
            return remark + self.game.question(self._state, self.seats[agent], self._names, played)
        now = self._ends.get(agent) or self.game.seen(self._state, self.seats[agent])
        return f"{played}\n{now}" if played else now

    def step(self, action: str | None) -> None:
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[agent] = 0.0
        self._clear_rewards()
        self.infos[agent] = {}
        self._heard[agent] = []
        self._mistaken = False
        named = named_actions(str(action), self._names)
        if len(named) == 1:
            self._moves[agent] += 1
            self._play(agent, self._names[named[0]])
        else:
            self._invalid[agent] += 1
            if self._invalid[agent] > self.mistakes:
                self._forfeit(agent)
            else:
                self._mistaken = True
                self.infos[agent] = {"moves": [*self._names]}
        self._accumulate_rewards()
        self._deads_step_first()

    def _play(self, agent: str, action: int) -> None:
        line = self.game.told(self._state, self.seats[agent], action)
        for other in self.agents:
            if other != agent:
                self._heard[other].append(line)
        self._state.apply_action(action)
        self._turn_to_next()

    def _turn_to_next(self) -> None:
        """Past what is left to chance."""
        state = self._state
        while state.is_chance_node():
            state.apply_action(drawn(state.chance_outcomes(), self._rng))
        if state.is_terminal():
            results = {agent: self.game.result(state, seat) for agent, seat in self.seats.items()}
            self._end({agent: (f"The game is over: {end}.", end, r) for agent, (end, r) in results.items()})
            return
        seat = state.current_player()
        self.agent_selection = self.possible_agents[seat]
        self._names = action_names(state, seat)
        player = {"player": "earlier"} if seat in self.earlier else {}
        self.infos[self.agent_selection] = {"moves": [*self._names], **player}

    def _forfeit(self, agent: str) -> None:
        left = min(1.0, (self.game.total or 0.0) / max(1, self.game.players - 1))
        ends = {
            other: (f"The game is over: {agent} named no move.", "no move of another", left)
            for other in self.agents
        }
        self._end({**ends, agent: ("That is no move. You lose.", "no move", 0.0)})

    def _end(self, results: dict[str, tuple[str, str, float]]) -> None:
        """By seat: the last message, a word for the end, the reward."""
        for agent, (text, end, reward) in results.items():
            self._ends[agent] = text
            self.rewards[agent] = reward
            self.terminations[agent] = True
            score = {"end": end, "moves": self._moves[agent], "invalid": self._invalid[agent]}
            self.infos[agent] = {"score": score}
