"""One episode: the environment and the policy take turns until one of them, or a limit, ends it.

Whatever happens, the rollout keeps what was played so far; a fault marks it broken and is never a reward.
"""

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field

from trieline.actors.branching import ForkPoints
from trieline.actors.config import ActorConfig
from trieline.actors.env_session import TaskChoice
from trieline.actors.errors import ActorError, EnvFailure
from trieline.actors.policy import Policy, Renderer
from trieline.actors.rollout import Origin, Rollout, Turn
from trieline.actors.session import Host, Session
from trieline.actors.window import Exchange, Window
from trieline.common.arrays import Int32
from trieline.common.message import Message
from trieline.common.seeds import derived_seed
from trieline.wire.config import EnvConfig
from trieline.wire.errors import ContextFullError, WireError
from trieline.wire.messages import Completion, Sampling

log = logging.getLogger(__name__)

# No tokenizer packs more characters into a token on average: what is longer can't fit, and is not tried.
MAX_CHARACTERS_PER_TOKEN = 32
# The policy client keeps its own deadline; this only catches one that does not.
GENERATE_GRACE_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodePlayer:
    """Plays episodes of one task."""

    env: EnvConfig
    config: ActorConfig
    renderer: Renderer
    policy: Policy
    host: Host
    task: TaskChoice
    """Seeds of sampling derive from its seed, the rollout and the turn."""
    fork_points: ForkPoints | None = None
    """Told of every turn after the first; None: nothing is forked."""
    prompts: dict[tuple[Message, ...], Int32] = field(default_factory=dict)
    """First messages to prompt [P]: the rollouts of a task share one, which is rendered once."""

    async def play(self, rollout: Rollout) -> None:
        """From reset to the end.

        Raises:
            StuckEnvironmentsError: this process can't go on. Everything else is written into the rollout.
        """
        await self._guarded(rollout, self._from_start(rollout))

    async def play_fork(self, rollout: Rollout, session: Session, window: Window, turns: int) -> None:
        """From the middle: `window` is what the policy sees, `turns` its replies. Closes `session`."""
        await self._guarded(rollout, self._play_and_close(rollout, session, window, turns))

    async def _guarded(self, rollout: Rollout, episode: Awaitable[None]) -> None:
        limit = self.env.episode.episode_timeout_s or self.config.episode_timeout_s
        try:
            async with asyncio.timeout(limit):
                await episode
        except EnvFailure as failure:
            self._break(rollout, failure.cause, failure.reason)
        except ContextFullError as error:
            rollout.full = True
            self._break(rollout, "environment", f"{self.env.id}: {error}")
        except WireError as error:
            self._break(rollout, "policy_server", f"{self.env.id}: no reply from the policy: {error}")
        except TimeoutError:
            self._break(rollout, "timeout", f"{self.env.id}: the episode did not end within {limit:g} s")
        except ActorError:
            raise
        except Exception as error:
            # A fault of ours must not take the other episodes along, nor come back with the next assignment.
            log.exception("%s: seed %d, rollout %d", self.env.id, self.task.seed, rollout.index)
            self._break(rollout, "environment", f"{type(error).__name__}: {error}")

    def _break(self, rollout: Rollout, cause: str, reason: str) -> None:
        rollout.cause, rollout.reason = cause, reason
        self.host.broken.add(self.env.id, cause, f"{reason} (seed {self.task.seed}, rollout {rollout.index})")

    async def _from_start(self, rollout: Rollout) -> None:
        session, task = await self.host.open(self.env, self.task)
        rollout.task_id = task.task_id
        rollout.heard.append(task.messages)
        rollout.tools = task.tools
        await self._play_and_close(rollout, session, None, 0)

    async def _play_and_close(
        self, rollout: Rollout, session: Session, window: Window | None, turns: int
    ) -> None:
        try:
            if window is None:
                prompt = rollout.prompt = self._prompt(rollout)
                await self._play_turns(rollout, session, Window(prompt=prompt), prompt, turns)
            else:
                await self._play_turns(rollout, session, window, window.prompt[:0], turns)
        finally:
            session.close()

    async def _play_turns(
        self, rollout: Rollout, session: Session, window: Window, own_context: Int32, turn: int
    ) -> None:
        """`window` is the whole sequence so far, `own_context` the end of it that no turn records yet."""
        tokens, opens = window.tokens(), False
        while True:
            try:
                completion = await self._generate(rollout, tokens, turn)
            except ContextFullError:
                if not rollout.rewards:
                    raise
                return await self._cut(rollout, session)
            reply = self.renderer.action(completion.token_ids, rollout.tools)
            rollout.turns.append(
                Turn(
                    context=own_context, completion=completion, reply=reply, window=window, opens_window=opens
                )
            )
            if self.fork_points is not None and rollout.origin is None and turn > 0:
                await self.fork_points.offer(Origin(rollout=rollout.index, turn=turn), completion, session)
            step = await session.step(reply)
            rollout.rewards.append(step.reward)
            rollout.heard.append(step.messages)
            rollout.score = step.score or rollout.score
            turn += 1
            if step.terminated or step.truncated:
                rollout.terminated = step.terminated
                return None
            if turn >= self.env.episode.max_turns or self._too_long(step.messages):
                return await self._cut(rollout, session)
            own_context = self._answer_tokens(
                len(window.exchanges) + 1, step.messages, int(completion.token_ids[-1])
            )
            window = window.followed_by(
                Exchange(reply=completion.token_ids, answer=own_context, messages=step.messages)
            )
            following = self._next_window(window)
            opens = following is not None
            if following is not None:
                window, own_context = following, following.after_prompt()
            if len(window) >= self.env.episode.max_context:
                return await self._cut(rollout, session)
            tokens = window.tokens()

    def _answer_tokens(self, turn: int, messages: Sequence[Message], last_token: int) -> Int32:
        return self.renderer.turn_tokens(turn, messages, last_token=last_token)

    def _next_window(self, window: Window) -> Window | None:
        """The one to go on in, if a whole reply has no room in `window` and the settings allow another."""
        limits = self.env.episode
        room = limits.max_context - limits.max_tokens
        if limits.compaction == "none" or len(window) <= room or window.number + 1 >= limits.max_windows:
            return None
        return window.compacted(limits.compaction, room=room, render=self._answer_tokens)

    async def _cut(self, rollout: Rollout, session: Session) -> None:
        """A limit ends the episode: what was done so far may count all the same."""
        ending = await session.finish()
        if ending is not None:
            rollout.rewards[-1] += ending.reward
            rollout.score = ending.score or rollout.score

    async def _generate(self, rollout: Rollout, tokens: Int32, turn: int) -> Completion:
        timeout_s = self.config.generate_timeout_s
        sampling = Sampling(
            max_tokens=min(self.env.episode.max_tokens, self.env.episode.max_context - len(tokens)),
            temperature=self.config.temperature,
            top_p=self.config.top_p,
            top_k=self.config.top_k,
            # The learner's probabilities have to be those over what was left.
            tell_masks=self.config.top_p < 1 or self.config.top_k > 0,
            stop_ids=self.renderer.stop_ids,
            seed=derived_seed(self.config.seed, self.env.id, self.task.seed, rollout.index, turn),
        )
        try:
            async with asyncio.timeout(timeout_s + GENERATE_GRACE_S):
                # All rollouts of the task go where its prompt is in the cache.
                task = f"{self.env.id}/{self.task.task_id}/{self.task.seed}"
                return await self.policy.generate(tokens, sampling, timeout_s=timeout_s, task=task)
        except TimeoutError:
            reason = f"{self.env.id}: the policy gave no reply within {timeout_s:g} s"
            raise EnvFailure(cause="policy_server", reason=reason) from None

    def _prompt(self, rollout: Rollout) -> Int32:
        """Raises ContextFullError if the task does not fit."""
        messages = rollout.heard[0]
        # Rollouts of a task have the same tools, as they have the same task.
        prompt = self.prompts.get(messages)
        if prompt is None and not self._too_long(messages):
            prompt = self.prompts[messages] = self.renderer.prompt_tokens(messages, rollout.tools)
        limit = self.env.episode.max_context
        if prompt is None or len(prompt) >= limit:
            length = f"{_characters(messages)} characters" if prompt is None else f"{len(prompt)} tokens"
            msg = f"expected a prompt of fewer tokens than {limit}, got {length}"
            raise ContextFullError(msg)
        return prompt

    def _too_long(self, messages: Sequence[Message]) -> bool:
        return _characters(messages) > MAX_CHARACTERS_PER_TOKEN * self.env.episode.max_context


def _characters(messages: Sequence[Message]) -> int:
    return sum(len(message.content) for message in messages)
