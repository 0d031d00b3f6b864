"""Conversations that people or other models wrote, as trajectory trees for supervised fine-tuning.

A file has one conversation a line, `{"messages": [{"role": ..., "content": ...}, ...], "tools": [...]}`.
Those that begin with the same messages up to the first reply become one tree, and what they share further on
is there once. Replies stand where sampled tokens would; everything else is context.
"""

import codecs
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
from msgspec.structs import replace

from trieline.actors.chat import ChatRenderer
from trieline.actors.demonstrations import written_completion
from trieline.actors.errors import ChatTemplateError, ConversationError
from trieline.actors.parquet_rows import parquet_rows
from trieline.actors.tree_builder import TreeBuilder
from trieline.actors.written_chat import Runs
from trieline.common.arrays import Int64
from trieline.common.message import Message, Tool, plain_message, plain_value
from trieline.common.prefix import common_prefix
from trieline.wire.tree import SCORED, TrajectoryTree

log = logging.getLogger(__name__)

T = TypeVar("T")

ENV_ID = "conversations"
INFO_CHARACTERS = 500
MAX_LISTED = 10
"""Lines that are named one by one; of the others there is the number."""

Conversation = list[Runs]
"""The paths of one conversation; more than one where the chat template rewrites earlier turns."""

# What would change the meaning of a line if it were not read. Other fields (ids, sources) are the file's own.
_UNREAD = (
    "functions",
    "function_call",
    "tool_choice",
    "system",
    "documents",
    "chat_template_kwargs",
    "prompt",
    "completion",
    "conversations",
    "chosen",
    "rejected",
    "images",
    "weight",
    "train",
)


class _Message(Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    weight: Literal[0, 1] | None = None
    train: bool | None = None


class _Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    messages: Annotated[list[_Message], msgspec.Meta(min_length=2)]
    tools: list[Tool] = []


def read_conversations(
    path: Path, renderer: ChatRenderer, *, max_unusable: int = 0, max_tokens: int | None = None
) -> list[Conversation]:
    """The conversations of one file, rendered.

    Args:
        path: JSON lines in UTF-8.
        renderer: of the model that is to learn them.
        max_unusable: lines that may be no conversation; they are left out and listed.
        max_tokens: a longer path is trained on, and its line named.

    Raises:
        ConversationError: too many lines are no conversation; names file and line, what was expected and what
            came.
    """
    read = read_rows(path, lambda fields: conversation_of(fields, renderer), max_unusable=max_unusable)
    too_long: list[str] = []
    for number, conversation in read:
        longest = max(sum(len(tokens) for tokens, _ in runs) for runs in conversation)
        if max_tokens is not None and longest > max_tokens:
            too_long.append(f"line {number}: {longest:,} tokens")
    if too_long:
        log.warning(
            "%s: longer than the %s tokens that the model was made for (%d): %s",
            path,
            f"{max_tokens:,}",
            len(too_long),
            _listed(too_long),
        )
    return [conversation for _, conversation in read]


def read_rows(path: Path, read: Callable[[Any], T], *, max_unusable: int) -> list[tuple[int, T]]:
    """The lines or rows of a file, each as `read` makes it of its fields, with their numbers from 1.

    Args:
        path: JSON lines in UTF-8, or Parquet.
        read: may raise what says that a line is no conversation.
        max_unusable: of those, how many may be; they are left out and listed.

    Raises:
        ConversationError: there are more of them, or nothing else is there.
    """
    found: list[tuple[int, T]] = []
    unusable: list[str] = []
    for number, line in enumerate(_lines(path), start=1):
        if isinstance(line, bytes) and not line.strip():
            continue
        try:
            found.append((number, read(msgspec.json.decode(line) if isinstance(line, bytes) else line)))
        except (
            msgspec.MsgspecError,
            UnicodeDecodeError,
            RecursionError,  # values in values in values
            ChatTemplateError,
            ConversationError,
        ) as error:
            unusable.append(f"line {number}: {error}")
            if len(unusable) > max_unusable:
                msg = f"{path}, {_listed(unusable)}"
                raise ConversationError(msg) from error
    if unusable:
        log.warning(
            "%s: %d conversations; lines left out (%d): %s",
            path,
            len(found),
            len(unusable),
            _listed(unusable),
        )
    if not found:
        msg = f"expected conversations in {path}, got none"
        raise ConversationError(msg)
    return found


def conversation_trees(conversations: Iterable[Conversation], renderer: ChatRenderer) -> list[TrajectoryTree]:
    """One tree for each opening (the tokens before the first reply), in the order of their first lines."""
    by_opening: dict[bytes, list[Runs]] = {}
    for paths in conversations:
        by_opening.setdefault(paths[0][0][0].tobytes(), []).extend(paths)
    trees: list[TrajectoryTree] = []
    for group in by_opening.values():
        # A template may rewrite a conversation from its first token on: a tree has one root.
        by_token: dict[int, list[Runs]] = {}
        for runs in group:
            by_token.setdefault(int(runs[0][0][0]), []).append(runs)
        trees += [_tree(part, renderer, len(trees) + i) for i, part in enumerate(by_token.values())]
    return trees


def _lines(path: Path) -> Iterable[Any]:
    """Lines as bytes, or rows as their fields."""
    if path.suffix == ".parquet":
        return parquet_rows(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        msg = f"expected a file of conversations at {path}: {error.strerror}"
        raise ConversationError(msg) from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        msg = f"expected UTF-8 in {path}, got UTF-16"
        raise ConversationError(msg)
    return data.removeprefix(codecs.BOM_UTF8).splitlines()


def conversation_of(fields: Any, renderer: ChatRenderer) -> Conversation:
    """The paths of a conversation, given as the fields of a line.

    Raises:
        ConversationError, ChatTemplateError, msgspec.MsgspecError: it is none, or none for this model.
    """
    conversation = msgspec.convert(_known_fields(fields), _Line)
    roles = [m.role for m in conversation.messages]
    if "assistant" not in roles[1:]:
        msg = f"expected a reply (role assistant) after the first message, got the roles {roles}"
        raise ConversationError(msg)
    if roles[0] == "assistant":
        msg = f"expected a first message by system or user, got the roles {roles[:4]}"
        raise ConversationError(msg)
    trained = [_is_trained(m, i) for i, m in enumerate(conversation.messages)]
    for i, (message, is_trained) in enumerate(zip(conversation.messages, trained, strict=True)):
        if is_trained and not (message.content.strip() or message.reasoning.strip() or message.tool_calls):
            msg = f"expected a reply with text or tool calls at messages[{i}], got an empty one"
            raise ConversationError(msg)
    if not any(trained):
        msg = "expected a reply that is trained on, got weight 0 or train false on all"
        raise ConversationError(msg)
    messages = [_message(m) for m in conversation.messages]
    return renderer.conversation_paths(messages, tools=conversation.tools, trained=trained)


def _known_fields(fields: Any) -> Any:
    """A line for `_Line`: what it names is there, what has no meaning here is not."""
    if not isinstance(fields, dict):
        return fields
    present = {name for name, value in fields.items() if value is not None and value != []}
    if unread := sorted(present.intersection(_UNREAD)):
        msg = f"expected the fields messages and tools, got {', '.join(unread)}, which would not be honoured"
        raise ConversationError(msg)
    known = {name: fields[name] for name in _Line.__struct_fields__ if name in present}
    if "tools" in known:
        known["tools"] = plain_value(known["tools"])
    if isinstance(messages := known.get("messages"), list):
        known["messages"] = [plain_message(m) if isinstance(m, dict) else m for m in messages]
    return known


def _is_trained(message: _Message, number: int) -> bool:
    chosen = message.weight != 0 and message.train is not False
    asked_for = message.weight == 1 or message.train is True
    if message.role != "assistant" and asked_for:
        msg = f"expected weight or train on replies alone, got it at messages[{number}] (role {message.role})"
        raise ConversationError(msg)
    return message.role == "assistant" and chosen


def _message(message: _Message) -> Message:
    return Message(**{name: getattr(message, name) for name in Message.__struct_fields__})


def _listed(reasons: Sequence[str]) -> str:
    more = [f"and {len(reasons) - MAX_LISTED} more"] if len(reasons) > MAX_LISTED else []
    return "; ".join([*reasons[:MAX_LISTED], *more])


def _tree(paths: Sequence[Runs], renderer: ChatRenderer, number: int) -> TrajectoryTree:
    builder = TreeBuilder()
    leaves = grow(builder, {i: keys_of(runs) for i, runs in enumerate(paths)})
    for i in range(len(paths)):
        builder.add_leaf(leaves[i], terminated=True, cause=SCORED)
    opening, reply = paths[0][0][0], paths[0][1][0]
    info = {
        "prompt": renderer.decode(opening)[-INFO_CHARACTERS:],
        "reply": renderer.decode(reply)[:INFO_CHARACTERS],
    }
    return builder.build(env_id=ENV_ID, task_id=str(number), level=0, info=info)


def keys_of(runs: Runs) -> Int64:
    """Token and author in one number."""
    return np.concatenate([tokens.astype(np.int64) * 2 + is_reply for tokens, is_reply in runs])


def grow(builder: TreeBuilder, paths: dict[int, Int64]) -> dict[int, int]:
    """Add paths that begin with the same token. Returns the node at which each ends."""
    leaves: dict[int, int] = {}
    left = [(-1, paths)]
    while left:
        node, together = left.pop()
        shared = common_prefix(*together.values())
        keys = next(iter(together.values()))[:shared]
        for run in np.split(keys, np.flatnonzero(np.diff(keys % 2)) + 1):
            tokens = (run // 2).astype(np.int32)
            if run[0] % 2:
                node = builder.add_sampled(node, written_completion(tokens), fork_cause="rollout")
            else:
                node = builder.add_context(node, tokens, fork_cause="rollout")
        children: dict[int, dict[int, Int64]] = {}
        for i, path in together.items():
            if len(path) == shared:
                leaves[i] = node
            else:
                children.setdefault(int(path[shared]), {})[i] = path[shared:]
        left += [(node, child) for child in reversed(list(children.values()))]
    return leaves


def select_sequences(tree: TrajectoryTree, *, min_return: float) -> TrajectoryTree | None:
    """The tree with the scored leaves of at least this return alone; None if there is none."""
    returns = tree.sequence_returns()
    kept = [leaf for leaf in tree.scored_leaves() if returns[leaf] >= min_return]
    if not kept:
        return None
    index = np.array(kept)
    return replace(
        tree,
        leaf_nodes=tree.leaf_nodes[index],
        leaf_terminated=tree.leaf_terminated[index],
        leaf_causes=tuple(tree.leaf_causes[leaf] for leaf in kept),
        leaf_groups=tree.leaf_groups[index] if len(tree.leaf_groups) else tree.leaf_groups,
    )
