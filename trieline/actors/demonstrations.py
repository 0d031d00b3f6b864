"""An expert's episodes as trees, for a supervised warm start: its replies stand where sampled ones would."""

from collections.abc import Iterator

import numpy as np

from trieline.actors.chat import ChatRenderer
from trieline.actors.env_returns import checked_reset, checked_step
from trieline.actors.env_session import TaskChoice, TextEnv, make_split
from trieline.actors.env_threads import call_with_deadline
from trieline.actors.errors import ChatTemplateError, DemonstrationError, EnvFailure
from trieline.actors.rollout import Rollout, Turn
from trieline.actors.tree_builder import build_tree
from trieline.common.arrays import Int32
from trieline.envs.errors import EnvError
from trieline.wire.config import EnvConfig
from trieline.wire.messages import Completion
from trieline.wire.tree import TrajectoryTree


def demonstration_tree(
    env_config: EnvConfig,
    renderer: ChatRenderer,
    seed: int,
    level: int | None = None,
    *,
    timeout_s: float = 900.0,
) -> TrajectoryTree:
    """One expert episode: behaviour log-probabilities and entropies 0, policy version 0, real rewards.

    Raises:
        DemonstrationError: the environment has no `demonstrate`, fails, does not get there in `timeout_s`, or
            its expert needs more tokens in a turn than `max_tokens`, or says what the chat template shows
            in no reply, which the policy could never learn to write.
    """

    def play() -> Rollout:
        env = make_split(env_config, None)
        try:
            return _play(env, env_config, renderer, seed, level)
        finally:
            env.close()

    try:
        rollout = call_with_deadline(f"{env_config.id}: its demonstration", play, timeout_s)
    except EnvFailure as failure:
        raise DemonstrationError(failure.reason) from failure
    except (EnvError, ChatTemplateError) as error:
        msg = f"{env_config.id}: its demonstration failed: {error}"
        raise DemonstrationError(msg) from error
    reply = rollout.turns[0].reply
    info = {"prompt": rollout.observations[0][:500], "reply": reply[:500]}
    return build_tree([rollout], env_id=env_config.id, level=level, group_size=1, info=info)


def _play(env: TextEnv, config: EnvConfig, renderer: ChatRenderer, seed: int, level: int | None) -> Rollout:
    task = checked_reset(
        env.reset(seed=seed, options=TaskChoice(seed=seed, level=level).options), config.id, seed
    )
    rollout = Rollout(index=0, observations=[task.observation], task_id=task.task_id)
    context = rollout.prompt = renderer.prompt_tokens(task.observation)
    used = len(context)
    for turn, action in enumerate(_actions(env, config)):
        tokens = _reply_tokens(renderer, action, config)
        used += len(tokens)
        if turn == config.episode.max_turns or used > config.episode.max_context:
            break
        rollout.turns.append(Turn(context=context, completion=written_completion(tokens), reply=action))
        step = checked_step(env.step(action), config.id)
        rollout.rewards.append(step.reward)
        rollout.observations.append(step.observation)
        rollout.terminated = step.terminated
        if step.terminated or step.truncated:
            break
        context = renderer.turn_tokens(turn + 1, step.observation, last_token=int(tokens[-1]))
        used += len(context)
    if not rollout.turns:
        limit = config.episode.max_context
        msg = f"{config.id}: expected a demonstration within max_context = {limit}, got none"
        raise DemonstrationError(msg)
    return rollout


def _actions(env: TextEnv, config: EnvConfig) -> Iterator[str]:
    """The expert's actions; it looks at the state anew before each."""
    try:
        demonstrate = env.get_wrapper_attr("demonstrate")
    except AttributeError:
        msg = f"{config.id}: expected a method demonstrate() that yields an expert's actions, found none"
        raise DemonstrationError(msg) from None
    actions: Iterator[str] = iter(demonstrate())
    return actions


def _reply_tokens(renderer: ChatRenderer, action: str, config: EnvConfig) -> Int32:
    try:
        tokens = renderer.reply_tokens(action)
    except ChatTemplateError as error:
        msg = f"{config.id}: its demonstration can't be a reply: {error}"
        raise DemonstrationError(msg) from error
    limit = config.episode.max_tokens
    if not 0 < len(tokens) <= limit:
        msg = (
            f"{config.id}: expected a demonstration of 1 to max_tokens = {limit} tokens a turn, "
            f"got {len(tokens)} for {action!r:.80}"
        )
        raise DemonstrationError(msg)
    return tokens


def written_completion(tokens: Int32) -> Completion:
    """Tokens that nobody sampled, as if a policy of version 0 had been certain of them."""
    zeros = np.zeros(len(tokens), dtype=np.float32)
    return Completion(
        request_id=0,
        token_ids=tokens,
        logprobs=zeros,
        entropies=zeros,
        policy_versions=np.zeros(len(tokens), dtype=np.int32),
        finish_reason="stop",
    )
