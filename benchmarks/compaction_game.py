"""A game that can only be won by what was written before the compaction.

In the first context window the agent is told three things, a letter with a digit each, and writes a note of
three tokens at most. Then its window is gone: the second one begins with the note, as text, and asks for the
digit of `k`. So the note has to be about `k`, and nothing in the first window says so: only the answer's
reward does, through the edge by which the note *continues* in the second window.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trieline.actors.chat import ChatRenderer
from trieline.actors.demonstrations import written_completion
from trieline.actors.policy import Policy
from trieline.actors.tree_builder import TreeBuilder
from trieline.wire.messages import Assignment, Completion, Sampling
from trieline.wire.tree import TrajectoryTree

ENV_ID = "benchmarks/Note-v0"
ASKED = "k"
OTHERS = "bdfhmrt"
THINGS = 3
NOTE_TOKENS = 3
ANSWER_TOKENS = 2
"""The end of turn included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Things:
    """What is told in the first window."""

    letters: str
    digits: str

    @classmethod
    def drawn(cls, seed: int) -> "Things":
        rng = np.random.default_rng(seed)
        letters = rng.permutation([ASKED, *rng.choice(list(OTHERS), THINGS - 1, replace=False)])
        return cls(letters="".join(letters), digits="".join(map(str, rng.integers(0, 10, THINGS))))

    @property
    def told(self) -> str:
        return " ".join(a + b for a, b in zip(self.letters, self.digits, strict=True))

    @property
    def answer(self) -> str:
        return self.digits[self.letters.index(ASKED)]

    def note(self, index: int) -> str:
        return self.letters[index] + self.digits[index]


def question(note: str) -> str:
    """What the second window begins with."""
    return f"{note}|{ASKED}"


class NotePlayer:
    """Plays the game; a rollout is two requests, and a tree of a group has two sequences for each."""

    def __init__(self, renderer: ChatRenderer, policy: Policy, *, seed: int) -> None:
        self._renderer, self._policy = renderer, policy
        self._rng = np.random.default_rng(seed)

    async def play(self, assignment: Assignment) -> TrajectoryTree:
        things = Things.drawn(assignment.seed)
        temperature = 1.0 if assignment.temperature is None else assignment.temperature
        rollouts = await asyncio.gather(
            *(self._rollout(things, temperature) for _ in range(assignment.group_size))
        )
        return played_tree(self._renderer, things, assignment.seed, rollouts)

    async def _rollout(self, things: Things, temperature: float) -> tuple[Completion, Completion]:
        note = await self._reply(things.told, NOTE_TOKENS, temperature)
        text = self._renderer.decode(note.token_ids)
        return note, await self._reply(question(text), ANSWER_TOKENS, temperature)

    async def _reply(self, said: str, max_tokens: int, temperature: float) -> Completion:
        sampling = Sampling(
            max_tokens=max_tokens,
            temperature=temperature,
            stop_ids=self._renderer.stop_ids,
            seed=int(self._rng.integers(2**31)),
        )
        return await self._policy.generate(self._renderer.prompt_tokens(said), sampling, timeout_s=3600)


def demonstration(renderer: ChatRenderer, seed: int) -> TrajectoryTree:
    """Somebody who knows how notes and answers look, but not which of the things will be asked for.

    The note is about any of them, and the answer a guess if it is about another one.
    """
    things = Things.drawn(seed)
    rng = np.random.default_rng([seed, 1])
    note = things.note(int(rng.integers(THINGS)))
    answer = note[1] if note[0] == ASKED else str(rng.integers(10))
    replies = (written_completion(renderer.reply_tokens(text)) for text in (note, answer))
    return played_tree(renderer, things, seed, [(next(replies), next(replies))])


def played_tree(
    renderer: ChatRenderer, things: Things, seed: int, rollouts: Sequence[tuple[Completion, Completion]]
) -> TrajectoryTree:
    """Both windows hang from the token with which every chat begins. 1 for the right digit."""
    builder = TreeBuilder()
    told = renderer.prompt_tokens(things.told)
    root = builder.add_context(-1, told[:1], fork_cause="")
    first = builder.add_context(root, told[1:], fork_cause="")
    for note, answer in rollouts:
        written = builder.add_sampled(first, note, fork_cause="rollout")
        builder.add_leaf(written, terminated=False, cause="")
        second = renderer.prompt_tokens(question(renderer.decode(note.token_ids)))
        window = builder.add_context(root, second[1:], fork_cause="compaction")
        builder.add_edge(written, window, kind="continues")
        end = builder.add_sampled(window, answer, fork_cause="rollout")
        builder.add_reward(end, float(renderer.decode(answer.token_ids) == things.answer))
        builder.add_leaf(end, terminated=True, cause="")
    return builder.build(env_id=ENV_ID, task_id=str(seed), level=0, info={"prompt": things.told})
