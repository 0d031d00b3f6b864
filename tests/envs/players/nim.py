"""Nim of one heap as anybody would write it for PettingZoo: with discrete actions and a mask, and in text."""

from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from pettingzoo import AECEnv

from trieline.envs.text_space import Text


class Nim(AECEnv[str, Any, Any]):
    """Take one to three; who takes the last one wins 1, the other loses 1. The seed lays the heap."""

    metadata: ClassVar[dict[str, Any]] = {"name": "nim_v0", "is_parallelizable": False}

    def __init__(self, *, most: int = 9) -> None:
        super().__init__()
        self.most = most
        self.possible_agents = ["first_0", "second_1"]
        self.spaces = {
            agent: Dict(
                {
                    "observation": Box(0, most, (1,), np.int8),
                    "action_mask": Box(0, 1, (3,), np.int8),
                }
            )
            for agent in self.possible_agents
        }
        self.actions = {agent: Discrete(3) for agent in self.possible_agents}

    def observation_space(self, agent: str) -> Any:
        return self.spaces[agent]

    def action_space(self, agent: str) -> Any:
        return self.actions[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        self.agents = [*self.possible_agents]
        self.heap = int(np.random.default_rng(seed).integers(4, self.most + 1))
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[str, dict[str, Any]] = {agent: {} for agent in self.agents}
        self.agent_selection = self.agents[0]

    def observe(self, agent: str) -> Any:
        mask = np.array([take <= self.heap for take in (1, 2, 3)], np.int8)
        return {"observation": np.array([self.heap], np.int8), "action_mask": mask}

    def step(self, action: Any) -> None:
        agent = self.agent_selection
        if self.terminations[agent]:
            self._was_dead_step(action)
            return
        other = self.agents[1 - self.agents.index(agent)]
        self._cumulative_rewards[agent] = 0.0
        self._clear_rewards()
        self.heap -= self.taken(action)
        self.agent_selection = other
        if self.heap <= 0:
            self.rewards = {agent: 1.0, other: -1.0}
            self.terminations = dict.fromkeys(self.agents, True)
        self._accumulate_rewards()
        self._deads_step_first()

    def taken(self, action: Any) -> int:
        assert self.heap >= action + 1, "an illegal action came through"
        return int(action) + 1


class SpokenNim(Nim):
    """The same in text: it reads replies itself, and a bad one takes one."""

    def __init__(self, *, most: int = 9) -> None:
        super().__init__(most=most)
        self.texts = Text(100)

    def observation_space(self, agent: str) -> Any:
        return self.texts

    def action_space(self, agent: str) -> Any:
        return self.texts

    def observe(self, agent: str) -> Any:
        return f"{agent}: {self.heap} left"

    def taken(self, action: Any) -> int:
        return int(action) if action in ("1", "2", "3") and int(action) <= self.heap else 1


def tell(observation: Any, agent: str) -> str:
    return f"{observation['observation'][0]} are left."


def name(action: int, agent: str) -> str:
    return f"take {action + 1}"


def wise(text: str, moves: Any) -> str:
    """Leaves a multiple of four where it can."""
    left = int(text.split(" are left")[0].split()[-1])
    wanted = f"take {left % 4}"
    return wanted if wanted in moves else str(moves[0])
