"""Conversations as a table, for those who train on text: one row a scored sequence.

`messages` are in the form that TRL and others read, `tools` is the JSON of the functions that were told, null
where none were. In JSON Lines the arguments of a call are an object, as chat templates want them; in Parquet,
whose columns have one type, they are JSON.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from trieline.actors.endpoint_policy import spelled_messages
from trieline.actors.errors import ConversationError
from trieline.actors.read_chat import ChatReader, ReadChat
from trieline.actors.written_chat import Runs
from trieline.common.message import Message
from trieline.launcher.export import Row, Table
from trieline.wire.messages import TreeDelivery
from trieline.wire.tree import TrajectoryTree


class Reader(Protocol):
    """What reads the messages of a sequence."""

    def read(self, runs: Runs) -> ReadChat:
        """Raises ConversationError: they can't be read."""
        ...


class SpelledReader:
    """Of trees whose tokens are bytes (`actors.endpoint_policy`)."""

    def read(self, runs: Runs) -> ReadChat:
        """The messages. Raises ConversationError: a role is none of a message."""
        found = spelled_messages(np.concatenate([tokens for tokens, _ in runs]))
        return ReadChat(messages=tuple(Message(role=role, content=text) for role, text in found))  # type: ignore[arg-type]


def chat_reader(folder: Path, template_kwargs: Mapping[str, Any]) -> Reader:
    """Of a model folder. Raises ChatTemplateError: as `ChatReader`."""
    return ChatReader(folder, template_kwargs)


class MessageRows:
    """Makes the rows, and counts what can't be read."""

    def __init__(self, reader: Reader, *, min_return: float = -math.inf) -> None:
        """`min_return`: sequences of less are left out."""
        self._reader = reader
        self._min_return = min_return
        self.unread: Counter[str] = Counter()
        """Sequences that are no conversation of this model, by the reason."""

    @property
    def table(self) -> Table:
        """Them as a table."""
        return Table(rows=self.rows, schema=_schema, flat=_flat, noun="conversations")

    def rows(self, deliveries: Iterable[TreeDelivery]) -> Iterator[Row]:
        """One row for each scored sequence of enough return that can be read."""
        for delivery in deliveries:
            tree = delivery.tree
            for leaf in tree.scored_leaves():
                earned = tree.sequence_return(leaf)
                if earned < self._min_return:
                    continue
                try:
                    chat = self._reader.read(_runs(tree, leaf))
                except ConversationError as error:
                    self.unread[str(error)[:200]] += 1
                    continue
                yield {
                    "messages": [_fields(message) for message in chat.messages],
                    "tools": json.dumps(list(chat.tools)) if chat.tools else None,
                    "reward": earned,
                    "trajectory_id": f"{delivery.actor_id}/{delivery.sequence_number}/{leaf}",
                    "terminated": bool(tree.leaf_terminated[leaf]),
                    "env_id": tree.env_id,
                    "task_id": tree.task_id,
                    "level": tree.level,
                }


def _runs(tree: TrajectoryTree, leaf: int) -> Runs:
    path = tree.path(int(tree.leaf_nodes[leaf]))
    return [(tree.token_ids[tree.node_tokens(node)], bool(tree.sampled[node])) for node in path]


def _fields(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        fields["tool_calls"] = [
            {
                "type": "function",
                "id": call.id,
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    for name in ("name", "tool_call_id"):
        if value := getattr(message, name):
            fields[name] = value
    return fields


def _flat(row: Row) -> Row:
    return {**row, "messages": [_flat_message(message) for message in row["messages"]]}


def _flat_message(message: dict[str, Any]) -> dict[str, Any]:
    calls = [
        {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
        for call in message.get("tool_calls", ())
    ]
    return {**message, "tool_calls": calls} if calls else message


def _schema(pyarrow: Any) -> Any:
    text = pyarrow.string()
    function = pyarrow.struct([("name", text), ("arguments", text)])
    call = pyarrow.struct([("type", text), ("id", text), ("function", function)])
    message = [("role", text), ("content", text), ("tool_calls", pyarrow.list_(call))]
    message += [("name", text), ("tool_call_id", text)]
    fields = [("messages", pyarrow.list_(pyarrow.struct(message))), ("tools", text)]
    fields += [("reward", pyarrow.float64()), ("trajectory_id", text), ("terminated", pyarrow.bool_())]
    fields += [("env_id", text), ("task_id", text), ("level", pyarrow.int64())]
    return pyarrow.schema(fields)
