"""What PettingZoo's own test needs of an environment whose observations are text."""

from typing import Any

from gymnasium.spaces import Dict
from pettingzoo.utils.wrappers import BaseWrapper


class Boxed(BaseWrapper[str, Any, str]):
    """Its observations in a mapping: `api_test` asks a bare one for its NumPy type, which a text has not."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.spaces = {agent: Dict({"text": env.observation_space(agent)}) for agent in env.possible_agents}

    def observation_space(self, agent: str) -> Any:
        return self.spaces[agent]

    def observe(self, agent: str) -> Any:
        return {"text": self.env.observe(agent)}
