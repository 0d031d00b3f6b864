"""Trees of text, for pages: an agent with a sub-agent and a summary, and one whose every word is hostile."""

from pathlib import Path

import numpy as np

from trieline.wire.journal import Journal
from trieline.wire.journal_header import BYTES_TOKENIZER, BYTES_VOCABULARY, JournalHeader
from trieline.wire.messages import TreeDelivery
from trieline.wire.tree import TrajectoryTree

RAN = "document.title = 'it ran'; document.body.append(document.createElement('blink'))"
"""What a page shows if a program in it is run."""
HOSTILE = (
    f'</script></style><script>{RAN}</script><img src="x" onerror="{RAN}"><svg onload="{RAN}"></svg>'
    f'<a href="javascript:{RAN}">--></a><!--<script>&lt;%%DATA%%${{{RAN}}}\u2028\u202e`'
)

Node = tuple[int, bool, str, str, float]
"""Parent, whether the policy wrote it, text, cause of the fork, reward."""


def agent_tree(task_id: str = "leap day", *, said: str = "The rule of 400 is missing.") -> TrajectoryTree:
    """Nodes 3 to 5 are a sub-agent's, node 7 begins a context window, 8 and 10 are side branches."""
    nodes: list[Node] = [
        (-1, False, "You repair packages.", "", 0),
        (0, False, "A test fails.", "", 0),
        (1, True, "I'll ask.", "", 0),
        (0, False, "Where are leap years decided?", "subagent", 0),
        (3, True, "In line 88.", "", 0),
        (2, False, "It says: in line 88.", "", 0),
        (5, True, said, "", 0),
        (0, False, f"Summary: {said}", "compaction", 0),
        (3, True, "I don't know", "branch", 0),
        (7, True, "Repaired.", "", 1),
        (7, True, "Repaired?", "token_mismatch", 0),
        (1, True, "rm -rf /", "rollout", -0.5),
    ]
    runs = [list(text.encode()) for _, _, text, _, _ in nodes]
    by_policy = np.repeat([sampled for _, sampled, *_ in nodes], [len(run) for run in runs])
    count = len(by_policy)
    return TrajectoryTree(
        env_id="test/Agent-v0",
        task_id=task_id,
        parents=np.array([n[0] for n in nodes], np.int32),
        node_offsets=np.cumsum([0, *map(len, runs)]).astype(np.int32),
        sampled=np.array([n[1] for n in nodes]),
        rewards=np.array([n[4] for n in nodes], np.float32),
        fork_causes=tuple(n[3] for n in nodes),
        token_ids=np.concatenate(runs).astype(np.int32),
        behavior_logprobs=np.where(by_policy, -np.arange(count) / count, 0).astype(np.float32),
        entropies=np.where(by_policy, np.where(np.arange(count) % 9, 0.5, np.nan), 0).astype(np.float32),
        policy_versions=np.where(by_policy, 4, -1).astype(np.int32),
        leaf_nodes=np.array([4, 6, 9, 11], np.int32),
        leaf_terminated=np.array([True, False, True, False]),
        leaf_causes=("", "", "", "sandbox"),
        leaf_groups=np.array([1, 0, 0, 0], np.int32),
        edge_sources=np.array([4, 6], np.int32),
        edge_targets=np.array([5, 7], np.int32),
        edge_kinds=("returns", "continues"),
        info={"score": said},
    )


def hostile_tree() -> TrajectoryTree:
    return agent_tree(HOSTILE, said=HOSTILE)


def record(folder: Path, *trees: TrajectoryTree) -> Path:
    """A journal of text."""
    header = JournalHeader(vocab_size=BYTES_VOCABULARY, tokenizer=BYTES_TOKENIZER)
    journal = Journal(folder, header=header)
    append(journal, *trees)
    journal.close()
    return folder


def append(journal: Journal, *trees: TrajectoryTree) -> None:
    for tree in trees:
        n = journal.num_records
        journal.append(TreeDelivery(actor_id="actor", sequence_number=n, assignment_id=n, tree=tree))
