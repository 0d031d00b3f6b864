"""Sessions of agents, as the gateway records them, train as their separate sequences do, in float64."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from tests.actors.gateway.desk import LOOK_UP, Desk, answer, calling, close, told, tree_of, user
from tests.learner.tiny_models import VOCAB_SIZE
from tests.learner.update.test_lineage_exactness import expect_exact, objective
from trieline.actors.gateway.asked import Declared, Replied
from trieline.actors.gateway.session import Session
from trieline.common.message import Message, Tool
from trieline.learner.batch.trie import build_trie
from trieline.wire.tree import TrajectoryTree

SYSTEM = Message(role="system", content="Mend.")
TASK = user("A line is lost.")


async def with_sub_agents(desk: Desk, session: Session) -> None:
    """An agent sends another, which sends a third; each answer is heard by who asked for it."""
    desk.policy.replies += [
        calling(do="look"),
        calling(do="dig"),
        "the loop ends early",
        "I hear that the loop ends early",
        "It was the loop.",
    ]
    top = await _ask(desk, session, "main", SYSTEM, TASK, tools=[LOOK_UP])
    inner = [SYSTEM, user("Why?")]
    sent = await _ask(desk, session, "a", *inner, tools=[LOOK_UP])
    deepest = await _ask(desk, session, "b", SYSTEM, user("Read."))
    back = await _ask(
        desk, session, "a", *inner, told(sent), answer(sent, deepest.message.content), tools=[LOOK_UP]
    )
    heard = answer(top, back.message.content)
    await _ask(desk, session, "main", SYSTEM, TASK, told(top), heard, tools=[LOOK_UP])


async def with_compactions(desk: Desk, session: Session) -> None:
    """Twice the context is full, and what follows begins with a summary of it."""
    chat = [SYSTEM, TASK]
    for number in range(2):
        summary = f"{number}: the loop ends early"
        desk.policy.replies += [f"Read {number}.", summary]
        read = await _ask(desk, session, "main", *chat)
        asked = user("Sum up.")
        await _ask(desk, session, "main", *chat, told(read), asked)
        chat = [SYSTEM, user(f"Go on. {summary}")]
    desk.policy.replies.append("Mended.")
    await _ask(desk, session, "main", *chat)


async def _ask(
    desk: Desk, session: Session, thread: str, *messages: Message, tools: tuple[Tool, ...] | list[Tool] = ()
) -> Replied:
    return await desk.ask(session, *messages, tools=tools, declared=Declared(session="s", thread=thread))


def recorded(folder: Path) -> TrajectoryTree:
    desk = Desk(folder)

    async def play() -> list[Session]:
        sessions = []
        for reward, agent in ((1.0, with_sub_agents), (0.0, with_compactions), (0.5, with_sub_agents)):
            session = desk.sessions.open()
            await agent(desk, session)
            close(session, reward)
            sessions.append(session)
        return sessions

    tree = tree_of(*asyncio.run(play()))
    # Of the test's small vocabulary: which tokens they are makes no difference here.
    rng = np.random.default_rng(0)
    drawn = rng.permutation(int(tree.token_ids.max()) + 1).astype(np.int32) % VOCAB_SIZE
    return replace(tree, token_ids=drawn[tree.token_ids])


@pytest.mark.parametrize("advantage", ["group", "tree", "vtrace"])
def test_loss_and_gradients_are_those_of_separate_sequences(tmp_path: Path, advantage: str) -> None:
    expect_exact([recorded(tmp_path)], objective(advantage, "token"), max_tokens=10_000)


def test_an_episode_each_and_fewer_tokens_than_anybody_else_trains(tmp_path: Path) -> None:
    tree = recorded(tmp_path)
    assert sorted(map(len, tree.episodes())) == [3, 3, 3]
    sequences = [tree.token_ids[tree.sequence_index(leaf)] for leaf in range(tree.num_leaves)]
    turns = sum(
        sum(len(range(*tree.node_tokens(n).indices(tree.num_tokens))) for n in tree.path(int(node)))
        for node in np.flatnonzero(tree.sampled)
    )
    trie = build_trie(sequences).num_tokens
    assert trie <= tree.num_tokens < sum(map(len, sequences)) < turns
