"""Our own environments, played by actors: text of every kind becomes trees that the learner accepts."""

import numpy as np
import pytest

from tests.actors.scripted_policy import ScriptedPolicy
from tests.actors.test_rollout_group import by_seed, play
from trieline.actors.chat import ChatRenderer
from trieline.actors.demonstrations import demonstration_tree
from trieline.actors.env_session import TaskChoice
from trieline.wire.config import EnvConfig, EpisodeConfig

ENVS = (
    EnvConfig(id="trieline/Arithmetic-v0", episode=EpisodeConfig(max_tokens=64)),
    EnvConfig(id="trieline/GuessNumber-v0", episode=EpisodeConfig(max_tokens=64)),
    EnvConfig(id="trieline/FrozenLake-v0", episode=EpisodeConfig(max_tokens=64, max_turns=20)),
)
LEVELS = (0, 2, 4)


@pytest.mark.parametrize("env", ENVS, ids=lambda env: env.id)
@pytest.mark.parametrize("level", LEVELS)
def test_an_expert_gets_the_full_reward(renderer: ChatRenderer, env: EnvConfig, level: int) -> None:
    tree = demonstration_tree(env, renderer, TaskChoice(seed=3, level=level))
    tree.validate(vocab_size=renderer.vocab_size)
    assert tree.sequence_return(0) == pytest.approx(1.0)
    assert tree.leaf_terminated.all()


@pytest.mark.parametrize("env", ENVS, ids=lambda env: env.id)
@pytest.mark.parametrize("level", LEVELS)
def test_groups_and_their_forks_are_scored(renderer: ChatRenderer, env: EnvConfig, level: int) -> None:
    policy = ScriptedPolicy(renderer, by_seed("1", "2", "left", "right", "down", "\ud83d", ""))
    tree = play(policy, renderer, env, group_size=4, level=level, branching="random", branches=3)
    assert set(tree.leaf_causes) == {""}
    assert tree.level == level
    assert 5 <= tree.num_leaves <= 7
    returns = np.asarray([tree.sequence_return(leaf) for leaf in range(tree.num_leaves)])
    assert ((returns >= 0) & (returns <= 1)).all()
