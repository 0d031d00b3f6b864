"""Conversations that people or other models wrote, as trajectory trees for supervised fine-tuning.

A file has one conversation a line, `{"messages": [{"role": ..., "content": ...}, ...]}`. Those that begin
with the same messages up to the first reply become one tree, and what they share further on is there once.
Replies stand where sampled tokens would; everything else is context.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np

from trieline.actors.chat import ChatRenderer
from trieline.actors.chat_template import Message
from trieline.actors.demonstrations import written_completion
from trieline.actors.errors import ChatTemplateError, ConversationError
from trieline.actors.tree_builder import TreeBuilder
from trieline.common.arrays import Int32
from trieline.wire.tree import SCORED, TrajectoryTree

ENV_ID = "conversations"
INFO_CHARACTERS = 500

Runs = list[tuple[Int32, bool]]
"""Tokens, and whether they are a reply, in turn."""


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    role: Literal["system", "user", "assistant", "tool"]
    content: str


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    messages: Annotated[list[_Message], msgspec.Meta(min_length=2)]


def read_conversations(path: Path, renderer: ChatRenderer) -> list[Runs]:
    """The conversations of one file, rendered.

    Raises:
        ConversationError: a line is no conversation; names file and line, what was expected and what came.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        msg = f"expected a file of conversations at {path}: {error.strerror}"
        raise ConversationError(msg) from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append(_runs(line, renderer))
        except (msgspec.MsgspecError, UnicodeDecodeError, ChatTemplateError, ConversationError) as error:
            msg = f"{path}, line {number}: {error}"
            raise ConversationError(msg) from error
    if not found:
        msg = f"expected conversations in {path}, got none"
        raise ConversationError(msg)
    return found


def conversation_trees(conversations: Iterable[Runs], renderer: ChatRenderer) -> list[TrajectoryTree]:
    """One tree for each opening (the tokens before the first reply), in the order of their first lines."""
    by_opening: dict[bytes, list[Runs]] = {}
    for runs in conversations:
        by_opening.setdefault(runs[0][0].tobytes(), []).append(runs)
    return [_tree(group, renderer, number) for number, group in enumerate(by_opening.values())]


def _runs(line: bytes, renderer: ChatRenderer) -> Runs:
    conversation = msgspec.json.decode(line, type=_Line)
    messages: list[Message] = [{"role": m.role, "content": m.content} for m in conversation.messages]
    roles = [m["role"] for m in messages]
    if "assistant" not in roles[1:]:
        msg = f"expected a reply (role assistant) after the first message, got the roles {roles}"
        raise ConversationError(msg)
    if roles[0] == "assistant":
        msg = f"expected a first message by system or user, got the roles {roles[:4]}"
        raise ConversationError(msg)
    return renderer.conversation_tokens(messages)


def _tree(group: Sequence[Runs], renderer: ChatRenderer, number: int) -> TrajectoryTree:
    builder = TreeBuilder()
    nodes: dict[tuple[int, bool, bytes], int] = {}
    for runs in group:
        node = -1
        for tokens, is_reply in runs:
            key = (node, is_reply, tokens.tobytes())
            if key not in nodes:
                nodes[key] = (
                    builder.add_sampled(node, written_completion(tokens), fork_cause="rollout")
                    if is_reply
                    else builder.add_context(node, tokens, fork_cause="rollout")
                )
            node = nodes[key]
        builder.add_leaf(node, terminated=True, cause=SCORED)
    opening, reply = group[0][0][0], group[0][1][0]
    info = {
        "prompt": renderer.decode(opening)[-INFO_CHARACTERS:],
        "reply": renderer.decode(reply)[:INFO_CHARACTERS],
    }
    return builder.build(env_id=ENV_ID, task_id=str(number), level=0, info=info)


def select_sequences(tree: TrajectoryTree, *, min_return: float) -> TrajectoryTree | None:
    """The tree with the scored leaves of at least this return alone; None if there is none."""
    kept = [leaf for leaf in tree.scored_leaves() if tree.sequence_return(leaf) >= min_return]
    if not kept:
        return None
    index = np.array(kept)
    return replace(
        tree,
        leaf_nodes=tree.leaf_nodes[index],
        leaf_terminated=tree.leaf_terminated[index],
        leaf_causes=tuple(tree.leaf_causes[leaf] for leaf in kept),
    )
