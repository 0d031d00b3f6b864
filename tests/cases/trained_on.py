"""What `trieline sft` would train on, as text."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from trieline.actors.chat import ChatRenderer
from trieline.actors.conversations import conversation_trees, read_conversations


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One node of a tree: its text, and its tokens as the tokenizer spells them."""

    trained: bool
    text: str
    tokens: list[str]


def nodes_of(file: Path, model: Path) -> list[Node]:
    """All nodes of the trees of `file`, in turn."""
    renderer = ChatRenderer(model, system_prompt="")
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    nodes = []
    for tree in conversation_trees(read_conversations(file, renderer), renderer):
        for sampled, ids in zip(tree.sampled, np.split(tree.token_ids, tree.node_offsets[1:-1]), strict=True):
            text = tokenizer.decode(ids.tolist(), skip_special_tokens=False)
            nodes.append(
                Node(
                    trained=bool(sampled), text=text, tokens=[tokenizer.id_to_token(i) for i in ids.tolist()]
                )
            )
    return nodes


def trained_texts(file: Path, model: Path) -> list[str]:
    """The replies that are trained on."""
    return [node.text for node in nodes_of(file, model) if node.trained]
