"""A tree as the page reads it: columns and short texts, in JSON, packed by gzip, in letters of base64.

So that no letter that a model or a sandbox wrote stands in the page's source.
"""

import base64
import gzip
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from trieline.common.text import LINES, visible
from trieline.launcher.token_texts import CONTEXT, TokenTexts
from trieline.launcher.view.credit import Credit, Creditor
from trieline.wire.messages import TreeDelivery
from trieline.wire.tree import SCORED, TrajectoryTree

DIGITS = 4
"""Of a number after its point: what a tooltip shows, with room to spare."""
MAX_NOTE = 4_000
"""Characters of one note of a tree."""
COMPRESSION = 6

Fields = dict[str, Any]


def shown_tree(
    delivery: TreeDelivery, number: int, *, texts: TokenTexts | None, creditor: Creditor
) -> Fields:
    """What the list of tasks says of a tree, and `packed`, the tree itself."""
    tree = delivery.tree
    credit = creditor.credit(tree)
    return {
        **_summary(delivery, number, credit),
        "packed": _packed(_columns(tree, texts, credit)),
    }


def _summary(delivery: TreeDelivery, number: int, credit: Credit) -> Fields:
    tree = delivery.tree
    versions = tree.policy_versions[tree.policy_versions >= 0].tolist()
    return {
        "number": number,
        "env": visible(tree.env_id),
        "task": visible(tree.task_id),
        "level": tree.level,
        "actor": visible(delivery.actor_id),
        "purpose": delivery.purpose,
        "tokens": tree.num_tokens,
        "sampled": len(versions),
        "versions": [min(versions), max(versions)] if versions else None,
        "returns": [
            _rounded(tree.sequence_return(leaf)) if cause == SCORED else None
            for leaf, cause in enumerate(tree.leaf_causes)
        ],
        "trained": credit.trained,
        "edges": len(tree.edge_kinds),
    }


def _columns(tree: TrajectoryTree, texts: TokenTexts | None, credit: Credit) -> Fields:
    return {
        "parents": tree.parents.tolist(),
        "offsets": tree.node_offsets.tolist(),
        "sampled": tree.sampled.astype(int).tolist(),
        "rewards": _numbers(tree.rewards),
        "causes": list(tree.fork_causes),
        "ids": tree.token_ids.tolist(),
        "texts": _texts(tree, texts),
        "logprobs": _numbers(tree.behavior_logprobs),
        "entropies": _numbers(tree.entropies),
        "versions": tree.policy_versions.tolist(),
        "advantages": _numbers(credit.of_tokens),
        "allowed": _allowed(tree),
        "leaves": [
            {
                "node": int(tree.leaf_nodes[leaf]),
                "return": _rounded(tree.sequence_return(leaf)),
                "terminated": bool(tree.leaf_terminated[leaf]),
                "cause": tree.leaf_causes[leaf],
                "group": int(tree.leaf_groups[leaf]) if len(tree.leaf_groups) else None,
                "advantage": _rounded(credit.of_leaves[leaf]),
            }
            for leaf in range(tree.num_leaves)
        ],
        "edges": [
            list(edge)
            for edge in zip(
                tree.edge_sources.tolist(), tree.edge_targets.tolist(), tree.edge_kinds, strict=True
            )
        ],
        "info": {visible(name): visible(note[:MAX_NOTE], keep=LINES) for name, note in tree.info.items()},
    }


def _texts(tree: TrajectoryTree, texts: TokenTexts | None) -> list[str]:
    """[T] what each token says."""
    found: list[str] = []
    for node, parent in enumerate(tree.parents.tolist()):
        ids = tree.token_ids[tree.node_tokens(node)].tolist()
        if texts is None:
            found += [f"{token} " for token in ids]
            continue
        before = tree.token_ids[tree.node_tokens(parent)][-CONTEXT:].tolist() if parent >= 0 else []
        found += [visible(text, keep=LINES) for text in texts(before, ids)]
    return found


def _allowed(tree: TrajectoryTree) -> list[int | None] | None:
    """[T] how many tokens the mask of each allowed, None where it had none. None: no token had one."""
    if not tree.num_masks:
        return None
    sizes = [int(np.diff(tree.mask(m).reshape(-1, 2)).sum()) for m in range(tree.num_masks)]
    return [sizes[m] if m >= 0 else None for m in tree.mask_index.tolist()]


def _numbers(column: npt.NDArray[Any]) -> list[float | None]:
    rounded = np.round(column.astype(np.float64), DIGITS).tolist()
    return [None if value != value else value for value in rounded]  # NaN alone differs from itself


def _rounded(value: float) -> float | None:
    return None if value != value else round(float(value), DIGITS)


def _packed(columns: Fields) -> str:
    data = gzip.compress(msgspec.json.encode(columns), COMPRESSION, mtime=0)
    return base64.b64encode(data).decode("ascii")
