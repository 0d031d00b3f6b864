"""Games of two players, of PettingZoo's shape, that behave and that do not. No package is needed."""

from typing import Any

import gymnasium
from gymnasium.spaces import Text

TABLED = "tests.actors.fake_tables:fake/Tabled-v0"


class Counters:
    """The seats say words in turn. Each word brings its number of letters to who said it and takes it from
    the other; whoever says `end` ends the game."""

    def __init__(self, fault: str, at: int) -> None:
        self.fault = fault
        self.at = at
        self.agents = ["north", "south"]
        self.agent_selection = "north"
        self.said: list[str] = []
        self.due = {"north": 0.0, "south": 0.0}
        self.over = False

    def last(self) -> Any:
        seat = self.agent_selection
        if self.fault == "last" and len(self.said) == self.at:
            return "only", "two"
        text = f"{seat}: {' '.join(self.said)}"
        return text, self.due[seat], self.over, False, {"score": {"said": len(self.said)}}

    def step(self, action: str | None) -> None:
        seat = self.agent_selection
        other = "south" if seat == "north" else "north"
        if self.over:
            self.agents.remove(seat)
            self.agent_selection = other
            return
        assert action is not None
        self.said.append(action)
        if self.fault == "step" and len(self.said) == self.at:
            msg = "the table fell over"
            raise RuntimeError(msg)
        self.due[seat] = float(len(action))
        self.due[other] -= len(action)
        self.over = action == "end"
        self.agent_selection = "nobody" if self.fault == "turn" and len(self.said) == self.at else other


class Tabled(gymnasium.Env[str, str]):
    """Has the table `Counters`, but at level 1, where it plays the other seat itself."""

    def __init__(self, *, fault: str = "", at: int = 1) -> None:
        self.observation_space = Text(1000)
        self.action_space = Text(1000)
        self.fault = fault
        self.at = at

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.level = (options or {}).get("level", 0)
        return "alone", {"task_id": f"task {seed}"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "over", 1.0, True, False, {}

    def table(self) -> Counters | None:
        if self.fault == "table":
            msg = "no table"
            raise KeyError(msg)
        return None if self.level else Counters(self.fault, self.at)


gymnasium.register(id="fake/Tabled-v0", entry_point="tests.actors.fake_tables:Tabled")
