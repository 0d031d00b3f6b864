"""Chats that somebody recorded, with what they earned, as trajectory trees: what `trieline import` reads.

As in supervised fine-tuning (`conversations`), those that begin with the same messages up to the
first reply are one tree, and what they share is there once. What a chat earned is its return: received at its
end, less what another chat earned that ends on its way.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from trieline.actors.chat import ChatRenderer
from trieline.actors.conversations import ENV_ID, Conversation, conversation_of, grow, keys_of, read_rows
from trieline.actors.errors import ConversationError
from trieline.actors.tree_builder import TreeBuilder
from trieline.actors.written_chat import Runs
from trieline.common.arrays import Int64
from trieline.wire.tree import SCORED, TrajectoryTree


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedChat:
    """One line."""

    paths: Conversation
    """Each is a sequence of its own, and earned all."""
    reward: float = 0.0
    env_id: str = ENV_ID
    task_id: str = ""
    """Empty: a number."""
    level: int = 0
    terminated: bool = True

    @property
    def task(self) -> tuple[str, str, int]:
        return self.env_id, self.task_id, self.level


def read_chats(path: Path, renderer: ChatRenderer, *, max_unusable: int = 0) -> list[RecordedChat]:
    """The chats of a file of JSON lines or Parquet, as `conversations.read_conversations` reads them.

    Beside `messages` and `tools` a line may have `reward`, `env_id`, `task_id`, `level` and `terminated`.

    Raises:
        ConversationError: as there.
    """
    rows = read_rows(path, lambda fields: _chat(fields, renderer), max_unusable=max_unusable)
    return [chat for _, chat in rows]


def chat_trees(chats: Iterable[RecordedChat]) -> list[TrajectoryTree]:
    """One tree for each task and opening, in the order of their first chats.

    A chat that says the same as another and earned otherwise is in a further tree: a node has one reward.
    """
    together: dict[tuple[Any, ...], list[tuple[Int64, RecordedChat]]] = {}
    placed: dict[tuple[Any, ...], dict[bytes, float]] = {}
    for chat in chats:
        for runs in chat.paths:
            keys = keys_of(runs)
            for layer in range(len(placed) + 1):
                # A template may rewrite a conversation from its first token on: a tree has one root.
                where = (chat.task, _opening(chat.paths[0]), int(runs[0][0][0]), layer)
                if placed.setdefault(where, {}).setdefault(keys.tobytes(), chat.reward) == chat.reward:
                    together.setdefault(where, []).append((keys, chat))
                    break
    return [_tree(members, number) for number, members in enumerate(together.values())]


def _opening(runs: Runs) -> bytes:
    return runs[0][0].tobytes()


def _tree(members: list[tuple[Int64, RecordedChat]], number: int) -> TrajectoryTree:
    builder = TreeBuilder()
    leaves = grow(builder, {i: keys for i, (keys, _) in enumerate(members)})
    for i, (_, chat) in enumerate(members):
        builder.add_leaf(leaves[i], terminated=chat.terminated, cause=SCORED)
    first = members[0][1]
    tree = builder.build(
        env_id=first.env_id, task_id=first.task_id or str(number), level=first.level, info={}
    )
    rewards = np.zeros(tree.num_nodes)
    # Shorter ones first, so that what was earned on the way is known.
    for i in sorted(leaves, key=lambda i: len(members[i][0])):
        *before, node = tree.path(leaves[i])
        rewards[node] = members[i][1].reward - rewards[before].sum()
    return replace(tree, rewards=rewards.astype(np.float32))


def _chat(fields: Any, renderer: ChatRenderer) -> RecordedChat:
    paths = conversation_of(fields, renderer)
    reward = fields.get("reward")
    reward = 0.0 if reward is None else reward
    if isinstance(reward, bool) or not isinstance(reward, int | float) or not math.isfinite(reward):
        msg = f"expected a finite number as reward, got {reward!r:.80}"
        raise ConversationError(msg)
    names = {name: fields[name] for name in ("env_id", "task_id") if isinstance(fields.get(name), str)}
    level, terminated = fields.get("level"), fields.get("terminated")
    return RecordedChat(
        paths=paths,
        reward=float(reward),
        level=level if isinstance(level, int) and not isinstance(level, bool) else 0,
        terminated=terminated is not False,
        **names,
    )
