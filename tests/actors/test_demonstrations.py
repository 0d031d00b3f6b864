import time
from pathlib import Path

import numpy as np
import pytest

from tests.actors import fake_envs
from tests.actors.chat_folder import KINDS, Kind, write_chat_folder
from tests.actors.chat_styles import PREFILLED
from tests.actors.fake_envs import COUNTING, FAULTY
from trieline.actors.chat import ChatRenderer
from trieline.actors.demonstrations import demonstration_tree
from trieline.actors.errors import DemonstrationError
from trieline.common.message import Message, Role
from trieline.wire.config import EnvConfig, EpisodeConfig


def test_the_expert_s_replies_stand_where_sampled_ones_would(renderer: ChatRenderer) -> None:
    tree = demonstration_tree(EnvConfig(id=COUNTING), renderer, 7, 2)
    tree.validate(vocab_size=renderer.vocab_size)
    assert (tree.task_id, tree.level, tree.leaf_causes) == ("train-7-2", 2, ("",))
    assert tree.sampled.tolist() == [False, True, False, True, False, True]
    assert tree.rewards.tolist() == pytest.approx([0, 1 / 3, 0, 2 / 3, 0, 1])
    assert tree.leaf_terminated.all()
    assert not tree.behavior_logprobs.any()
    assert not tree.entropies.any()
    by_policy = np.repeat(tree.sampled, np.diff(tree.node_offsets))
    assert (tree.policy_versions == np.where(by_policy, 0, -1)).all()
    for node in np.flatnonzero(tree.sampled):
        reply = tree.token_ids[tree.node_tokens(int(node))]
        assert renderer.decode(reply) == "good"
        assert reply[-1] == renderer.end_of_turn_id


def test_the_tokens_are_those_of_a_rollout_that_says_the_same(renderer: ChatRenderer) -> None:
    whole = demonstration_tree(EnvConfig(id=COUNTING), renderer, 7)
    short = demonstration_tree(EnvConfig(id=COUNTING, episode=EpisodeConfig(max_turns=2)), renderer, 7)
    assert short.token_ids.tolist() == whole.token_ids[: short.num_tokens].tolist()
    assert not short.leaf_terminated.any()


@pytest.mark.parametrize("kind", KINDS)
def test_an_expert_s_episode_is_the_template_s_whole_text_at_once(tmp_path: Path, kind: Kind) -> None:
    renderer = ChatRenderer(write_chat_folder(tmp_path, kind=kind), system_prompt="")
    tree = demonstration_tree(EnvConfig(id=COUNTING), renderer, 7)
    said = ["task train-7-0", "good", "turn 1 after good", "good", "turn 2 after good/good", "good"]
    roles: tuple[Role, Role] = ("user", "assistant")
    (runs,) = renderer.conversation_paths(
        [Message(role=roles[i % 2], content=text) for i, text in enumerate(said)]
    )
    assert tree.token_ids.tolist() == np.concatenate([tokens for tokens, _ in runs]).tolist()


def test_an_expert_who_does_not_think_where_the_template_opens_the_thinking_is_told(tmp_path: Path) -> None:
    folder = write_chat_folder(
        tmp_path, template=PREFILLED.template, special=PREFILLED.special, eos=PREFILLED.eos
    )
    with pytest.raises(DemonstrationError, match="can't be a reply: expected a reply with its thinking"):
        demonstration_tree(EnvConfig(id=COUNTING), ChatRenderer(folder), 7)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (
            EnvConfig(id=COUNTING, episode=EpisodeConfig(max_tokens=1)),
            "expected a demonstration of 1 to max_tokens = 1",
        ),
        (
            EnvConfig(id=COUNTING, episode=EpisodeConfig(max_context=20)),
            "expected a demonstration within max_context = 20",
        ),
        (EnvConfig(id="CartPole-v1"), "expected text as observation of reset, got ndarray"),
        (EnvConfig(id=FAULTY, kwargs={"fault": "nan"}), "expected a finite number as reward"),
        (
            EnvConfig(id=FAULTY, kwargs={"fault": "raise"}),
            "its demonstration raised ZeroDivisionError: no luck",
        ),
        (
            EnvConfig(id=FAULTY, kwargs={"fault": "sandbox"}),
            "its demonstration failed: the container is gone",
        ),
    ],
)
def test_what_can_not_be_shown_is_said(renderer: ChatRenderer, env: EnvConfig, said: str) -> None:
    with pytest.raises(DemonstrationError, match=said):
        demonstration_tree(env, renderer, 7)


def test_an_expert_that_hangs_is_given_up(renderer: ChatRenderer) -> None:
    fake_envs.released.clear()
    fake_envs.closed.clear()
    try:
        with pytest.raises(DemonstrationError, match=r"demonstration did not come back within 0\.05 s"):
            demonstration_tree(EnvConfig(id=FAULTY, kwargs={"fault": "hang"}), renderer, 7, timeout_s=0.05)
    finally:
        fake_envs.released.set()
    deadline = time.monotonic() + 10
    while "Faulty" not in fake_envs.closed:  # by the thread that was left behind
        assert time.monotonic() < deadline
        time.sleep(0.01)
