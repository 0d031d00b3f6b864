import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.actors import fake_envs
from tests.actors.chat_folder import CHATML, write_chat_folder
from tests.actors.fake_envs import COUNTING, FAULTY, FINISHING, LISTING, RESTLESS, UNFORKABLE
from tests.actors.scripted_policy import ENTROPY, LOGPROB, VERSION, Script, ScriptedPolicy
from trieline.actors.broken_episodes import BrokenEpisodes
from trieline.actors.chat import ChatRenderer
from trieline.actors.config import ActorConfig
from trieline.actors.env_session import EnvHost
from trieline.actors.episode_slots import EpisodeSlots
from trieline.actors.gymnasium_player import play_environments
from trieline.actors.player import Stage
from trieline.actors.policy import Policy
from trieline.common.arrays import Int32
from trieline.common.message import Message, Role
from trieline.wire.config import EnvConfig, EpisodeConfig
from trieline.wire.errors import PeerTimeoutError
from trieline.wire.messages import Assignment, Completion, Purpose, Sampling
from trieline.wire.tree import TrajectoryTree
from trieline.wire.tree_admission import EnvExpectation, Expectation, expect_admissible

SYSTEM = Message(role="system", content="You are a helpful assistant.")


@pytest.fixture(autouse=True)
def _release() -> Iterator[None]:
    fake_envs.released.clear()
    yield
    fake_envs.released.set()


def play(
    policy: Policy,
    renderer: ChatRenderer,
    env: EnvConfig,
    *,
    group_size: int = 4,
    level: int | None = None,
    times: int = 1,
    asked: dict[str, Any] | None = None,
    earlier: Policy | None = None,
    **settings: Any,
) -> TrajectoryTree:
    """Play one assignment (`times` times, and give the last tree, which a learner takes)."""
    config = ActorConfig(**settings)
    assignment = Assignment(
        assignment_id=1, env_id=env.id, level=level, group_size=group_size, **({"seed": 11} | (asked or {}))
    )

    async def run() -> TrajectoryTree:
        host = EnvHost(
            threads=config.env_threads,
            max_stuck=config.max_stuck_threads,
            call_timeout_s=config.turn_timeout_s,
        )
        player = play_environments(
            Stage(
                config=config,
                envs={env.id: env},
                renderer=renderer,
                policy=policy,
                earlier=earlier,
                host=host,
                slots=EpisodeSlots(config.episodes),
            )
        )
        trees = [await player.play(assignment) for _ in range(times)]
        fake_envs.released.set()
        await host.close()
        return trees[-1]

    tree = asyncio.run(run())
    expectation = Expectation(
        envs={
            env.id: EnvExpectation(
                max_context=env.episode.max_context,
                max_windows=env.episode.windows,
                levels=frozenset((level or 0,)),
            )
        },
        vocab_size=renderer.vocab_size,
        max_forks=config.branches,
    )
    expect_admissible(tree, assignment, expectation, newest_version=VERSION)
    return tree


def always(text: str) -> Script:
    return lambda prompt, sampling: text


def by_seed(*texts: str) -> Script:
    return lambda prompt, sampling: texts[sampling.seed % len(texts)]


def texts(tree: TrajectoryTree, renderer: ChatRenderer, leaf: int) -> list[str]:
    """Text of each node on the path of a leaf."""
    nodes = tree.path(int(tree.leaf_nodes[leaf]))
    return [renderer.decode(tree.token_ids[tree.node_tokens(node)]) for node in nodes]


def test_rollouts_share_the_prompt_and_rewards_stand_on_their_replies(renderer: ChatRenderer) -> None:
    policy = ScriptedPolicy(renderer, always("good"))
    tree = play(policy, renderer, EnvConfig(id=COUNTING), group_size=2, level=1)

    assert (tree.env_id, tree.task_id, tree.level) == (COUNTING, "train-11-1", 1)
    assert tree.parents.tolist() == [-1, 0, 1, 2, 3, 4, 0, 6, 7, 8, 9]
    assert tree.sampled.tolist() == [False, *[True, False, True, False, True] * 2]
    assert tree.rewards.tolist() == pytest.approx([0, *[1 / 3, 0, 2 / 3, 0, 1] * 2])
    assert tree.fork_causes == ("", "", "", "", "", "", "rollout", "", "", "", "")
    assert tree.leaf_nodes.tolist() == [5, 10]
    assert tree.leaf_terminated.all()
    assert tree.leaf_causes == ("", "")
    by_policy = np.repeat(tree.sampled, np.diff(tree.node_offsets))
    assert (tree.policy_versions == np.where(by_policy, VERSION, -1)).all()
    assert (tree.behavior_logprobs == np.where(by_policy, np.float32(LOGPROB), 0)).all()
    assert (tree.entropies == np.where(by_policy, np.float32(ENTROPY), 0)).all()
    assert tree.info == {"prompt": "task train-11-1", "reply": "good", "score": "{'said': 'good'}"}


def test_rollouts_share_the_prompt_of_a_template_that_tells_the_time(tmp_path: Path) -> None:
    folder = write_chat_folder(tmp_path, template="{{ strftime_now('%H:%M:%S.%f') }}" + CHATML)
    renderer = ChatRenderer(folder)
    assert renderer.prompt_tokens("now").tolist() != renderer.prompt_tokens("now").tolist()
    tree = play(ScriptedPolicy(renderer, always("good")), renderer, EnvConfig(id=COUNTING))
    assert (tree.parents == 0).sum() == tree.num_leaves == 4
    assert "token_mismatch" not in tree.fork_causes


def test_a_sequence_is_what_the_template_makes_of_the_chat(renderer: ChatRenderer) -> None:
    tree = play(ScriptedPolicy(renderer, always("bad")), renderer, EnvConfig(id=COUNTING), group_size=1)
    tokens = tree.token_ids[tree.sequence_index(0)]
    said = ["task train-11-0", "bad", "turn 1 after bad", "bad", "turn 2 after bad/bad", "bad"]
    roles: tuple[Role, Role] = ("user", "assistant")
    chat = [SYSTEM, *(Message(role=roles[i % 2], content=text) for i, text in enumerate(said))]
    (runs,) = renderer.conversation_paths(chat)
    assert tokens.tolist() == np.concatenate([run for run, _ in runs]).tolist()


def test_the_policy_sees_the_sequence_so_far_verbatim(renderer: ChatRenderer) -> None:
    class Odd(ScriptedPolicy):
        """Samples "good" letter by letter, as no tokenizer would write it."""

        async def generate(
            self, prompt: Int32, sampling: Sampling, *, timeout_s: float, task: str = ""
        ) -> Completion:
            self.prompts.append(prompt)
            whole = await super().generate(prompt, sampling, timeout_s=timeout_s)
            letters = np.concatenate([renderer.reply_tokens(letter)[:-1] for letter in "good"])
            assert len(letters) > len(whole.token_ids) - 1
            k = len(letters)
            return Completion(
                request_id=0,
                token_ids=letters,
                logprobs=np.zeros(k, np.float32),
                entropies=np.zeros(k, np.float32),
                policy_versions=np.zeros(k, np.int32),
                finish_reason="length",
            )

    policy = Odd(renderer, always("good"))
    tree = play(policy, renderer, EnvConfig(id=COUNTING), group_size=1)
    sequence = tree.token_ids[tree.sequence_index(0)].tolist()
    for prompt in policy.prompts:
        assert prompt.tolist() == sequence[: len(prompt)]
    assert tree.rewards.sum() == pytest.approx(2)  # the environment read "good" all the same


def test_episodes_at_once_are_bounded(renderer: ChatRenderer) -> None:
    policy = ScriptedPolicy(renderer, always("good"))
    play(policy, renderer, EnvConfig(id=COUNTING), group_size=40, episodes=7)
    assert policy.most_running <= 7
    assert len(policy.prompts) == 120


def test_seeds_of_sampling_differ_by_rollout_and_turn_and_repeat(renderer: ChatRenderer) -> None:
    policies = [ScriptedPolicy(renderer, by_seed("good", "bad", "ugly")) for _ in range(3)]
    trees = [
        play(policy, renderer, EnvConfig(id=COUNTING), seed=seed)
        for policy, seed in zip(policies, (0, 0, 1), strict=True)
    ]
    assert trees[0].token_ids.tolist() == trees[1].token_ids.tolist() != trees[2].token_ids.tolist()
    seeds = [sampling.seed for sampling in policies[0].samplings]
    assert len(set(seeds)) == 12
    assert set(seeds).isdisjoint(s.seed for s in policies[2].samplings)


def test_settings_of_sampling_reach_the_policy(renderer: ChatRenderer) -> None:
    policy = ScriptedPolicy(renderer, always("good"))
    env = EnvConfig(id=COUNTING, episode=EpisodeConfig(max_tokens=9))
    play(policy, renderer, env, temperature=0.7, top_p=0.9, top_k=5)
    sampling = policy.samplings[0]
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_tokens) == (0.7, 0.9, 5, 9)
    assert sampling.stop_ids == renderer.stop_ids
    assert sampling.tell_masks
    play(plain := ScriptedPolicy(renderer, always("good")), renderer, env)
    assert not plain.samplings[0].tell_masks


def test_max_turns_truncates(renderer: ChatRenderer) -> None:
    env = EnvConfig(id=COUNTING, episode=EpisodeConfig(max_turns=2))
    tree = play(ScriptedPolicy(renderer, always("good")), renderer, env, group_size=1)
    assert tree.leaf_terminated.tolist() == [False]
    assert tree.leaf_causes == ("",)
    assert tree.sampled.sum() == 2


def test_the_environment_s_own_truncation_is_kept(renderer: ChatRenderer) -> None:
    env = EnvConfig(id=FAULTY, kwargs={"fault": "truncated", "at": 2})
    tree = play(ScriptedPolicy(renderer, always("good")), renderer, env, group_size=1)
    assert (tree.leaf_terminated.tolist(), tree.leaf_causes, int(tree.sampled.sum())) == ([False], ("",), 2)


def test_max_context_truncates_and_shortens_the_last_reply(renderer: ChatRenderer) -> None:
    prompt = len(renderer.prompt_tokens("task train-11-0"))
    policy = ScriptedPolicy(renderer, always("good good good good"))
    env = EnvConfig(id=COUNTING, episode=EpisodeConfig(max_context=prompt + 3))
    tree = play(policy, renderer, env, group_size=1)
    assert tree.num_tokens == prompt + 3
    assert policy.samplings[0].max_tokens == 3
    assert (tree.leaf_terminated.tolist(), tree.leaf_causes) == ([False], ("",))


def test_a_prompt_that_does_not_fit_breaks_the_rollouts(renderer: ChatRenderer) -> None:
    env = EnvConfig(id=COUNTING, episode=EpisodeConfig(max_context=5))
    tree = play(ScriptedPolicy(renderer, always("good")), renderer, env, group_size=2)
    assert tree.leaf_causes == ("environment", "environment")
    assert tree.num_tokens == 1


def test_a_flood_of_text_truncates(renderer: ChatRenderer) -> None:
    env = EnvConfig(id=FAULTY, kwargs={"fault": "flood", "at": 2})
    tree = play(ScriptedPolicy(renderer, always("good")), renderer, env, group_size=1)
    assert (tree.leaf_terminated.tolist(), tree.leaf_causes, int(tree.sampled.sum())) == ([False], ("",), 2)


@pytest.mark.parametrize(
    ("fault", "cause"),
    [("raise", "environment"), ("nan", "environment"), ("sandbox", "sandbox"), ("hang", "timeout")],
)
def test_a_fault_breaks_its_leaf_and_keeps_what_was_played(
    renderer: ChatRenderer, fault: str, cause: str
) -> None:
    env = EnvConfig(id=FAULTY, kwargs={"fault": fault, "at": 2})
    policy = ScriptedPolicy(renderer, always("good"))
    tree = play(policy, renderer, env, group_size=2, turn_timeout_s=0.2 if fault == "hang" else 5.0)
    assert tree.leaf_causes == (cause, cause)
    assert not tree.leaf_terminated.any()
    assert tree.leaf_nodes.tolist() == [3, 6]
    assert tree.rewards.tolist() == pytest.approx([0, 1 / 3, 0, 0, 1 / 3, 0, 0])
    assert tree.info["broken"].startswith(f"{FAULTY}: ")
    assert tree.info["reply"] == "good"


@pytest.mark.parametrize(
    ("fault", "cause"), [("raise", "environment"), ("sandbox", "sandbox"), ("hang", "timeout")]
)
def test_a_reset_that_fails_still_gives_a_tree(renderer: ChatRenderer, fault: str, cause: str) -> None:
    env = EnvConfig(id=FAULTY, kwargs={"fault": fault, "at": 0})
    policy = ScriptedPolicy(renderer, always("good"))
    tree = play(policy, renderer, env, group_size=3, turn_timeout_s=0.2 if fault == "hang" else 5.0)
    assert tree.leaf_causes == (cause,) * 3
    assert tree.leaf_nodes.tolist() == [0, 0, 0]
    assert "broken" in tree.info


def test_a_policy_server_that_is_gone_breaks_the_leaves(renderer: ChatRenderer) -> None:
    class Gone:
        async def generate(
            self, prompt: Int32, sampling: Sampling, *, timeout_s: float, task: str = ""
        ) -> Completion:
            raise PeerTimeoutError("waited for the policy server")

    tree = play(Gone(), renderer, EnvConfig(id=COUNTING), group_size=2, branching="random", branches=2)
    assert tree.leaf_causes == ("policy_server",) * 2
    assert tree.leaf_nodes.tolist() == [0, 0]
    assert tree.num_tokens == len(renderer.prompt_tokens("task train-11-0"))


def test_a_policy_that_is_silent_ends_with_the_episode_s_deadline(renderer: ChatRenderer) -> None:
    class Silent:
        async def generate(
            self, prompt: Int32, sampling: Sampling, *, timeout_s: float, task: str = ""
        ) -> Completion:
            await asyncio.sleep(100)
            raise AssertionError

    tree = play(Silent(), renderer, EnvConfig(id=COUNTING), group_size=2, episode_timeout_s=0.1)
    assert tree.leaf_causes == ("timeout",) * 2
    own = EnvConfig(id=COUNTING, episode=EpisodeConfig(episode_timeout_s=0.1))
    tree = play(Silent(), renderer, own, group_size=2, episode_timeout_s=100.0)
    assert tree.leaf_causes == ("timeout",) * 2, "the environment's own limit comes first"


def test_an_environment_s_own_turn_limit_comes_first(renderer: ChatRenderer) -> None:
    env = EnvConfig(id=FAULTY, kwargs={"fault": "hang", "at": 2}, episode=EpisodeConfig(turn_timeout_s=0.2))
    tree = play(ScriptedPolicy(renderer, always("good")), renderer, env, group_size=1, turn_timeout_s=100.0)
    assert tree.leaf_causes == ("timeout",)


def test_a_fault_of_ours_breaks_one_episode_and_is_logged(
    renderer: ChatRenderer, caplog: pytest.LogCaptureFixture
) -> None:
    def script(prompt: str, sampling: Sampling) -> str:
        if "turn 1" in prompt:
            raise LookupError("a bug")
        return "good"

    tree = play(ScriptedPolicy(renderer, script), renderer, EnvConfig(id=COUNTING), group_size=1)
    assert tree.leaf_causes == ("environment",)
    assert "LookupError: a bug" in caplog.text


def test_text_that_is_no_unicode_and_speaks_in_special_tokens_is_played(renderer: ChatRenderer) -> None:
    env = EnvConfig(id=FAULTY, kwargs={"fault": "surrogate", "at": 1})
    tree = play(ScriptedPolicy(renderer, always("good")), renderer, env, group_size=1)
    assert tree.leaf_causes == ("",)
    assert (tree.token_ids == renderer.end_of_turn_id).sum() == 2 + 2 + 3  # system, messages, replies


def test_an_environment_that_changes_its_task_is_broken(renderer: ChatRenderer) -> None:
    tree = play(ScriptedPolicy(renderer, always("good")), renderer, EnvConfig(id=RESTLESS), group_size=3)
    assert sorted(tree.leaf_causes) == ["", "environment", "environment"]
    assert "token_mismatch" not in tree.fork_causes


@pytest.mark.parametrize("purpose", ["train", "evaluate", "demonstrate"])
def test_an_assignment_for_an_unknown_environment_gives_a_broken_tree(
    renderer: ChatRenderer, purpose: Purpose
) -> None:
    async def run() -> TrajectoryTree:
        player = play_environments(
            Stage(
                config=ActorConfig(),
                envs={COUNTING: EnvConfig(id=COUNTING)},
                renderer=renderer,
                policy=ScriptedPolicy(renderer, always("good")),
                host=EnvHost(threads=1, max_stuck=1, call_timeout_s=1),
                slots=EpisodeSlots(1),
            )
        )
        return await player.play(
            Assignment(assignment_id=1, env_id="no/Such-v0", seed=1, group_size=2, purpose=purpose)
        )

    tree = asyncio.run(run())
    tree.validate()
    assert set(tree.leaf_causes) == {"environment"}
    assert "got 'no/Such-v0'" in tree.info["broken"]


def test_the_reason_of_a_broken_episode_is_there_beside_what_was_said(renderer: ChatRenderer) -> None:
    env = EnvConfig(id=FAULTY, kwargs={"fault": "raise", "at": 2})
    tree = play(ScriptedPolicy(renderer, always("good")), renderer, env)
    assert set(tree.leaf_causes) == {"environment"}
    assert tree.info["reply"] == "good"
    assert "ZeroDivisionError: no luck" in tree.info["broken"]


# ---- what an assignment asks for


def test_an_assignment_names_its_task_and_its_split(renderer: ChatRenderer) -> None:
    asked = {"task_id": "seven", "split": "test"}
    tree = play(ScriptedPolicy(renderer, always("good")), renderer, EnvConfig(id=COUNTING), asked=asked)
    assert tree.task_id == "seven"
    assert tree.info["split"] == "test"
    asked = {"split": "test"}
    tree = play(ScriptedPolicy(renderer, always("good")), renderer, EnvConfig(id=COUNTING), asked=asked)
    assert tree.task_id == "test-11-0"


def test_a_listed_task_is_of_its_own_split_and_no_other_is_taken_for_it(renderer: ChatRenderer) -> None:
    policy = ScriptedPolicy(renderer, always("good"))
    tree = play(policy, renderer, EnvConfig(id=LISTING), asked={"task_id": "test 3", "split": "test"})
    assert (tree.task_id, tree.info["split"]) == ("test 3", "test")
    assert tree.leaf_causes == ("",) * 4
    deaf = EnvConfig(id=LISTING, kwargs={"answer": "deaf"})
    tree = play(policy, renderer, deaf, asked={"task_id": "train 3"})
    assert (tree.task_id, set(tree.leaf_causes)) == ("train 3", {"environment"})
    assert "expected the task 'train 3', as asked for in the options of reset" in tree.info["broken"]
    assert "got 'train-11-0'" in tree.info["broken"]


def test_a_task_that_this_actor_s_environment_lacks_is_named(renderer: ChatRenderer) -> None:
    policy = ScriptedPolicy(renderer, always("good"))
    tree = play(policy, renderer, EnvConfig(id=LISTING), asked={"task_id": "gone"})
    assert (tree.task_id, set(tree.leaf_causes)) == ("gone", {"environment"})
    assert f"{LISTING}: reset to the task 'gone' raised KeyError: 'no such row'" in tree.info["broken"]


def test_an_environment_without_splits_is_played_as_it_is(renderer: ChatRenderer) -> None:
    env = EnvConfig(id=FAULTY, kwargs={"fault": "none"})
    tree = play(ScriptedPolicy(renderer, always("good")), renderer, env, asked={"split": "test"})
    assert set(tree.leaf_causes) == {""}
    assert "split" not in tree.info


def test_an_evaluation_is_sampled_as_it_asks_and_never_forked(renderer: ChatRenderer) -> None:
    temperatures = set()

    def script(prompt: str, sampling: Sampling) -> str:
        temperatures.add(sampling.temperature)
        return "good"

    asked = {"purpose": "evaluate", "temperature": 0.25}
    env = EnvConfig(id=COUNTING, kwargs={"turns": 2})
    tree = play(
        ScriptedPolicy(renderer, script),
        renderer,
        env,
        group_size=2,
        asked=asked,
        branching="random",
        branches=3,
    )
    assert temperatures == {0.25}
    assert tree.num_leaves == 2
    chat = json.loads(tree.info["transcript"])
    assert [m["role"] for m in chat] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert chat[3]["content"] == "turn 1 after good"


def test_a_demonstration_is_the_experts_episode(renderer: ChatRenderer) -> None:
    policy = ScriptedPolicy(renderer, always("bad"))
    tree = play(policy, renderer, EnvConfig(id=COUNTING), group_size=1, asked={"purpose": "demonstrate"})
    assert tree.num_leaves == 1
    assert tree.sequence_return(0) == pytest.approx(2.0)
    assert set(tree.policy_versions[tree.policy_versions >= 0]) == {0}


def test_a_demonstration_that_can_not_be_had_is_a_broken_tree_with_the_reason(renderer: ChatRenderer) -> None:
    env = EnvConfig(id=FAULTY, kwargs={"fault": "raise", "at": 2})
    policy = ScriptedPolicy(renderer, always("bad"))
    tree = play(policy, renderer, env, group_size=1, asked={"purpose": "demonstrate"})
    assert tree.leaf_causes == ("environment",)
    assert "ZeroDivisionError: no luck" in tree.info["broken"]


# ---- a limit cuts an episode


def test_what_was_done_counts_when_a_limit_cuts_an_episode(renderer: ChatRenderer) -> None:
    policy = ScriptedPolicy(renderer, always("good"))
    env = EnvConfig(id=FINISHING, kwargs={"turns": 5}, episode=EpisodeConfig(max_turns=2))
    tree = play(policy, renderer, env, group_size=1)
    assert tree.sequence_return(0) == pytest.approx(0.2 + 0.4 + 2.0)
    assert not tree.leaf_terminated[0]
    assert tree.info["score"] == "2 turns were enough"
    # An episode that the environment ends itself is not finished once more.
    env = EnvConfig(id=FINISHING, kwargs={"turns": 2}, episode=EpisodeConfig(max_turns=2))
    assert play(policy, renderer, env, group_size=1).sequence_return(0) == pytest.approx(0.5 + 1.0)


def test_a_full_context_cuts_an_episode_as_well(renderer: ChatRenderer) -> None:
    policy = ScriptedPolicy(renderer, always("good"))
    whole = play(policy, renderer, EnvConfig(id=FINISHING, kwargs={"turns": 5}), group_size=1)
    env = EnvConfig(
        id=FINISHING, kwargs={"turns": 5}, episode=EpisodeConfig(max_context=whole.num_tokens - 3)
    )
    tree = play(policy, renderer, env, group_size=1)
    assert tree.num_tokens < whole.num_tokens
    assert "were enough" in tree.info["score"]


def test_an_ending_that_is_none_breaks_the_episode(renderer: ChatRenderer) -> None:
    policy = ScriptedPolicy(renderer, always("good"))
    for ending, reason in (("nothing", "expected (reward, info) from finish"), ("nan", "finite number")):
        env = EnvConfig(
            id=FINISHING, kwargs={"turns": 5, "ending": ending}, episode=EpisodeConfig(max_turns=1)
        )
        tree = play(policy, renderer, env, group_size=1)
        assert tree.leaf_causes == ("environment",), reason


# ---- branching


@pytest.mark.parametrize("branching", ["random", "entropy"])
def test_forks_start_in_the_middle_of_rollouts(renderer: ChatRenderer, branching: str) -> None:
    policy = ScriptedPolicy(renderer, by_seed("good", "bad", "ugly"))
    env = EnvConfig(id=COUNTING, kwargs={"turns": 5})
    tree = play(policy, renderer, env, group_size=3, branching=branching, branches=4)
    assert tree.num_leaves == 7
    assert tree.leaf_causes == ("",) * 7
    assert tree.fork_causes.count("branch") == 4
    for leaf in range(7):
        path = texts(tree, renderer, leaf)
        replies = path[1::2]
        assert len(replies) == 5
        # The environment was in the state of the fork, not of the rollout that went on.
        for turn in range(1, 5):
            assert f"turn {turn} after {'/'.join(replies[:turn])}\n" in path[2 * turn]
    starts = [int(tree.parents[n]) for n, cause in enumerate(tree.fork_causes) if cause == "branch"]
    assert 0 not in starts
    assert not tree.sampled[starts].any()


def test_entropy_forks_at_the_most_uncertain_turns(renderer: ChatRenderer) -> None:
    def entropy(prompt: str) -> float:
        return {"3": 2.0, "1": 1.5}.get(prompt.rpartition("turn ")[2][:1], 1.0)

    policy = ScriptedPolicy(renderer, by_seed("good", "bad"), entropy=entropy)
    env = EnvConfig(id=COUNTING, kwargs={"turns": 5})
    tree = play(policy, renderer, env, group_size=2, branching="entropy", branches=3)
    forked = [int(tree.parents[n]) for n, cause in enumerate(tree.fork_causes) if cause == "branch"]
    said = sorted(renderer.decode(tree.token_ids[tree.node_tokens(n)]).split("user\n")[1][:6] for n in forked)
    assert said == ["turn 1", "turn 3", "turn 3"]


def test_random_forks_do_not_depend_on_who_was_faster(renderer: ChatRenderer) -> None:
    class Jittery(ScriptedPolicy):
        def __init__(self, renderer: ChatRenderer, delay: Callable[[int], float]) -> None:
            super().__init__(renderer, by_seed("good", "bad"))
            self._delay = delay

        async def generate(
            self, prompt: Int32, sampling: Sampling, *, timeout_s: float, task: str = ""
        ) -> Completion:
            await asyncio.sleep(self._delay(sampling.seed))
            return await super().generate(prompt, sampling, timeout_s=timeout_s)

    env = EnvConfig(id=COUNTING, kwargs={"turns": 4})
    trees = [
        play(Jittery(renderer, delay), renderer, env, group_size=4, branching="random", branches=3)
        for delay in (lambda seed: 0.0, lambda seed: seed % 7 * 0.004, lambda seed: seed % 5 * 0.003)
    ]
    for tree in trees[1:]:
        assert tree.token_ids.tolist() == trees[0].token_ids.tolist()
        assert tree.parents.tolist() == trees[0].parents.tolist()


def test_copies_of_environments_are_bounded_and_closed(renderer: ChatRenderer) -> None:
    fake_envs.closed.clear()
    fake_envs.open_now.clear()
    policy = ScriptedPolicy(renderer, by_seed("good", "bad"))
    env = EnvConfig(id=COUNTING, kwargs={"turns": 6})
    play(policy, renderer, env, group_size=4, branching="random", branches=2)
    made = len(fake_envs.closed) - 4
    assert 2 <= made <= 4 * 5
    assert fake_envs.open_now["Forkable"] == 0


@pytest.mark.parametrize("branching", ["random", "entropy"])
def test_an_environment_without_copies_is_branched_at_its_start(
    renderer: ChatRenderer, branching: str, caplog: pytest.LogCaptureFixture
) -> None:
    policy = ScriptedPolicy(renderer, by_seed("good", "bad", "ugly"))
    env = EnvConfig(id=UNFORKABLE)
    tree = play(policy, renderer, env, group_size=3, branching=branching, branches=2, times=3)
    assert tree.num_leaves == 5
    assert tree.leaf_causes == ("",) * 5
    forks = [n for n, cause in enumerate(tree.fork_causes) if cause == "branch"]
    assert tree.parents[forks].tolist() == [0, 0]
    assert caplog.text.count("is branched at its start only") == 1


def test_episodes_of_one_turn_are_branched_at_their_start(renderer: ChatRenderer) -> None:
    policy = ScriptedPolicy(renderer, by_seed("good", "bad", "ugly"))
    env = EnvConfig(id=COUNTING, kwargs={"turns": 1})
    tree = play(policy, renderer, env, group_size=3, branching="entropy", branches=2)
    assert tree.parents.tolist() == [-1, 0, 0, 0, 0, 0]
    assert tree.fork_causes == ("", "", "rollout", "rollout", "branch", "branch")


def test_a_fork_that_breaks_is_a_broken_leaf_where_it_started(renderer: ChatRenderer) -> None:
    class FailsForks(ScriptedPolicy):
        async def generate(
            self, prompt: Int32, sampling: Sampling, *, timeout_s: float, task: str = ""
        ) -> Completion:
            if len(self.prompts) >= 6:
                raise PeerTimeoutError("gone")
            return await super().generate(prompt, sampling, timeout_s=timeout_s)

    policy = FailsForks(renderer, by_seed("good", "bad"))
    tree = play(policy, renderer, EnvConfig(id=COUNTING), group_size=2, branching="random", branches=2)
    assert tree.leaf_causes == ("", "", "policy_server", "policy_server")
    assert not tree.sampled[tree.leaf_nodes[2:]].any()


def test_settings_without_effect_are_refused() -> None:
    with pytest.raises(ValueError, match="got none"):
        ActorConfig(branches=2)
    with pytest.raises(ValueError, match="got 0"):
        ActorConfig(branching="random")


def test_what_breaks_again_and_again_is_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    broken = BrokenEpisodes()
    for number in range(1000):
        broken.add("a", "sandbox", f"reason {number}")
    broken.add("a", "timeout", "x" * 10_000)
    assert broken.counts == {("a", "sandbox"): 1000, ("a", "timeout"): 1}
    assert [r.getMessage()[:50] for r in caplog.records] == [
        "a: 1 broken (sandbox), the latest: reason 0",
        "a: 1 broken (timeout), the latest: xxxxxxxxxxxxxxx",
    ]
    assert len(caplog.records[1].getMessage()) < 600


def compacting(
    renderer: ChatRenderer, how: str, *, reply: str = "good", held: int = 4, **settings: Any
) -> EnvConfig:
    """An episode of 9 turns of which a window holds about `held`."""
    prompt = len(renderer.prompt_tokens("task train-11-0"))
    said = len(renderer.reply_tokens(reply))
    answer = len(renderer.turn_tokens(5, f"turn 5 after {'/'.join([reply] * 5)}", last_token=0))
    limits = EpisodeConfig(
        max_turns=9,
        max_tokens=said,
        max_context=prompt + held * (said + answer),
        compaction=how,  # type: ignore[arg-type]
        **settings,
    )
    return EnvConfig(id=COUNTING, kwargs={"turns": 9}, episode=limits)


@pytest.mark.parametrize(
    ("how", "reply", "held", "note"),
    [("turns", "good", 4, "earlier turns left out"), ("outputs", "good " * 9, 7, "characters left out")],
)
def test_a_full_context_goes_on_in_a_window_that_the_one_before_continues_in(
    renderer: ChatRenderer, how: str, reply: str, held: int, note: str
) -> None:
    policy = ScriptedPolicy(renderer, always(reply))
    env = compacting(renderer, how, reply=reply, held=held, max_windows=9)
    tree = play(policy, renderer, env, group_size=1)
    (episode,) = tree.episodes()
    assert len(episode) == tree.num_leaves >= 2
    assert tree.leaf_terminated.tolist() == [*[False] * (len(episode) - 1), True]
    assert tree.fork_causes.count("compaction") == len(episode) - 1 == len(tree.edge_kinds)
    # Each reply was sampled once, and the episode's return is that of all its windows, for each of them.
    assert int(tree.sampled.sum()) == 9
    whole = sum(turn / 9 for turn in range(1, 10)) if reply == "good" else 0.0
    assert [tree.sequence_return(leaf) for leaf in episode] == pytest.approx([whole] * len(episode))
    # What the policy saw is what the tree has, and never more than the limit.
    sampled = np.flatnonzero(tree.sampled)
    for node, seen in zip(sampled, policy.prompts, strict=True):
        path = tree.path(int(node))[:-1]
        stored = np.concatenate([tree.token_ids[tree.node_tokens(n)] for n in path])
        assert stored.tolist() == seen.tolist()
        assert len(seen) + env.episode.max_tokens <= env.episode.max_context
    for source, target in zip(tree.edge_sources, tree.edge_targets, strict=True):
        assert note in renderer.decode(tree.token_ids[tree.node_tokens(int(target))])
        assert int(tree.parents[target]) == 0
        assert int(source) in tree.leaf_nodes


def test_the_last_window_ends_the_episode(renderer: ChatRenderer) -> None:
    env = compacting(renderer, "turns", max_windows=2)
    env = EnvConfig(
        id=COUNTING, kwargs={"turns": 30}, episode=msgspec.structs.replace(env.episode, max_turns=30)
    )
    tree = play(ScriptedPolicy(renderer, always("good")), renderer, env)
    assert {len(episode) for episode in tree.episodes()} == {2}
    assert not tree.leaf_terminated.any()


def test_what_fits_into_no_window_ends_the_episode(renderer: ChatRenderer) -> None:
    prompt = len(renderer.prompt_tokens("task train-11-0"))
    limits = EpisodeConfig(max_turns=9, max_tokens=8, max_context=prompt + 20, compaction="turns")
    env = EnvConfig(id=COUNTING, kwargs={"turns": 9}, episode=limits)
    tree = play(ScriptedPolicy(renderer, always("good")), renderer, env, group_size=1)
    assert (tree.num_leaves, tree.leaf_terminated.tolist()) == (1, [False])


def test_a_fork_goes_on_from_the_window_of_its_turn(renderer: ChatRenderer) -> None:
    policy = ScriptedPolicy(renderer, always("good"))
    env = compacting(renderer, "turns", max_windows=9)
    tree = play(policy, renderer, env, group_size=1, branching="random", branches=3)
    episodes = tree.episodes()
    assert len(episodes) == 4
    assert tree.fork_causes.count("branch") == 3
    for leaves in episodes:
        assert tree.leaf_terminated[leaves[-1]]
        nodes = {n for leaf in leaves for n in tree.path(int(tree.leaf_nodes[leaf]))}
        assert sum(bool(tree.sampled[n]) for n in nodes) == 9


def test_a_broken_episode_is_broken_in_all_its_windows(renderer: ChatRenderer) -> None:
    env = compacting(renderer, "turns", max_windows=9)
    env = EnvConfig(id=FAULTY, kwargs={"fault": "raise", "at": 8, "turns": 9}, episode=env.episode)
    tree = play(ScriptedPolicy(renderer, always("good")), renderer, env, group_size=1)
    assert tree.num_leaves >= 2
    assert set(tree.leaf_causes) == {"environment"}
