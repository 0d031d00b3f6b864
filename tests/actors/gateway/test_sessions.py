"""From what agents ask to the tree of it: tokens kept, branches where they part, edges where text goes on."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.actors.gateway.desk import (
    LOOK_UP,
    Desk,
    answer,
    calling,
    close,
    expect_faithful,
    run,
    system,
    told,
    tree_of,
    user,
)
from trieline.actors.gateway.asked import Declared
from trieline.actors.gateway.config import GatewayConfig
from trieline.actors.gateway.errors import (
    BadRequestError,
    ConflictError,
    ContextLengthError,
    DeadlineError,
    OverloadedError,
    UnknownKeyError,
    UpstreamError,
)
from trieline.actors.gateway.exchange import Closed
from trieline.actors.gateway.session import Session
from trieline.common.message import Message
from trieline.wire.errors import PeerTimeoutError, WireError
from trieline.wire.tree import TrajectoryTree

TASK = (system("Be brief."), user("How tall is the tree?"))


def test_an_agent_with_tools_is_one_sequence_with_each_reply_as_it_was_sampled(tmp_path: Path) -> None:
    desk = Desk(tmp_path, replies=[calling(word="tree"), calling(word="metre"), " It is  12 m tall. "])

    async def play() -> TrajectoryTree:
        session = desk.sessions.open()
        chat = [*TASK]
        for heard in ("an oak", "39.37 inches"):
            replied = await desk.ask(session, *chat, tools=[LOOK_UP])
            assert replied.finish_reason == "tool_calls"
            chat += [told(replied), answer(replied, heard)]
        last = await desk.ask(session, *chat, tools=[LOOK_UP])
        assert last.message.content.strip() == "It is  12 m tall."
        assert last.cached_tokens > 0
        close(session, 0.5)
        return tree_of(session)

    tree = run(play())
    expect_faithful(tree, desk.policy)
    assert tree.num_leaves == 1
    assert tree.leaf_terminated.tolist() == [True]
    assert tree.sequence_return(0) == 0.5
    assert set(tree.fork_causes) == {""}


def test_ids_of_calls_are_unique_in_a_session(tmp_path: Path) -> None:
    desk = Desk(tmp_path, replies=[calling(word="a") + "\n" + calling(word="b"), calling(word="c")])

    async def play() -> list[str]:
        session = desk.sessions.open()
        first = await desk.ask(session, *TASK, tools=[LOOK_UP])
        heard = [answer(first, "x", 0), answer(first, "y", 1)]
        second = await desk.ask(session, *TASK, told(first), *heard, tools=[LOOK_UP])
        return [call.id for replied in (first, second) for call in replied.message.tool_calls]

    ids = run(play())
    assert len(set(ids)) == 3
    assert all(len(i) == 9 and i.isalnum() for i in ids)


def test_a_reply_that_is_sent_back_in_other_words_begins_a_branch_that_continues_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path, replies=["One.", "Two."])

    async def play() -> TrajectoryTree:
        session = desk.sessions.open()
        await desk.ask(session, *TASK)
        rewritten = Message(role="assistant", content="Uno.")
        await desk.ask(session, *TASK, rewritten, user("And now?"))
        close(session)
        return tree_of(session)

    tree = run(play())
    expect_faithful(tree, desk.policy)
    assert tree.fork_causes.count("token_mismatch") == 1
    assert tree.edge_kinds == ("continues",)
    assert tree.episodes() == [[0, 1]]
    assert [tree.sequence_return(leaf) for leaf in range(2)] == [1.0, 1.0]


def test_a_summary_continues_in_the_window_that_begins_with_it(tmp_path: Path) -> None:
    summary = "<summary>The tree is an oak of 12 m.\nNothing else was asked.</summary>"
    desk = Desk(tmp_path, replies=["It is an oak.", summary, "As I said: 12 m."])

    async def play() -> TrajectoryTree:
        session = desk.sessions.open()
        first = await desk.ask(session, *TASK)
        await desk.ask(session, *TASK, told(first), user("Summarise all of this."))
        kept = summary.removeprefix("<summary>").removesuffix("</summary>")
        await desk.ask(session, TASK[0], user(f"We had: {kept} Go on: how tall?"))
        close(session)
        return tree_of(session)

    tree = run(play())
    expect_faithful(tree, desk.policy)
    assert tree.num_leaves == 2
    assert tree.fork_causes.count("compaction") == 1
    assert tree.edge_kinds == ("continues",)
    assert tree.episodes() == [[0, 1]]


def test_a_summary_is_asked_for_without_the_tools_and_shares_their_prompt_all_the_same(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path, replies=["It is an oak.", calling(word="oak")])

    async def play() -> None:
        session = desk.sessions.open()
        first = await desk.ask(session, *TASK, tools=[LOOK_UP])
        asked = await desk.ask(session, *TASK, told(first), user("Summarise all of this."))
        assert session.exchanges[1].parent == 0
        # It was not to call anything, so nothing is a call.
        assert asked.message.tool_calls == ()
        assert "look_up" in asked.message.content

    run(play())


def test_sub_agents_of_two_levels_return_to_those_who_sent_them(tmp_path: Path) -> None:
    replies = [calling(word="send"), calling(word="deep"), "deepest: 3 m", "inner says: 12 m in all", "12 m"]
    desk = Desk(tmp_path, replies=replies)
    main, helper, deep = (
        Declared(session="s", thread="main"),
        Declared(session="s", thread="a", parent_thread="main"),
        Declared(session="s", thread="b", parent_thread="a"),
    )

    async def play() -> TrajectoryTree:
        session = desk.sessions.open()
        top = await desk.ask(session, *TASK, tools=[LOOK_UP], declared=main)
        inner = [system("You help."), user("Measure the tree")]
        sent = await desk.ask(session, *inner, tools=[LOOK_UP], declared=helper)
        found = await desk.ask(session, system("You dig."), user("Measure the root"), declared=deep)
        back = await desk.ask(
            session,
            *inner,
            told(sent),
            answer(sent, found.message.content),
            tools=[LOOK_UP],
            declared=helper,
        )
        heard = answer(top, back.message.content)
        await desk.ask(session, *TASK, told(top), heard, tools=[LOOK_UP], declared=main)
        close(session)
        return tree_of(session)

    tree = run(play())
    expect_faithful(tree, desk.policy)
    assert tree.num_leaves == 3
    assert tree.fork_causes.count("subagent") == 2
    assert tree.edge_kinds == ("returns", "returns")
    targets = [int(t) for t in tree.edge_targets]
    assert all(tree.sampled[t] for t in targets)


@pytest.mark.parametrize("declares", [True, False])
def test_a_sub_agent_may_begin_as_its_sender_did(tmp_path: Path, declares: bool) -> None:
    """Harnesses tell each agent the date and the folder first; not all say whose a request is."""
    desk = Desk(tmp_path, replies=[calling(word="send"), "inside: 3 metres", "12 m"])
    main = Declared(thread="main") if declares else Declared()
    helper = Declared(thread="a", parent_thread="main") if declares else Declared()
    context = user("It is Monday, and this is /work.")

    async def play() -> TrajectoryTree:
        session = desk.sessions.open()
        chat = [system("You lead."), context, user("How tall?")]
        top = await desk.ask(session, *chat, tools=[LOOK_UP], declared=main)
        found = await desk.ask(session, system("You help."), context, user("Measure"), declared=helper)
        heard = answer(top, found.message.content)
        await desk.ask(session, *chat, told(top), heard, tools=[LOOK_UP], declared=main)
        close(session)
        return tree_of(session)

    tree = run(play())
    expect_faithful(tree, desk.policy)
    assert [cause for cause in tree.fork_causes if cause in ("subagent", "token_mismatch")] == ["subagent"]
    assert tree.edge_kinds == ("returns",)


def test_what_runs_on_the_side_is_kept_and_belongs_to_no_sequence(tmp_path: Path) -> None:
    desk = Desk(tmp_path, replies=["A tall tree", "12 m"])

    async def play() -> TrajectoryTree:
        session = desk.sessions.open()
        await desk.ask(session, user("A title for this?"), declared=Declared(purpose="side"))
        await desk.ask(session, *TASK)
        close(session)
        return tree_of(session)

    tree = run(play())
    expect_faithful(tree, desk.policy)
    assert tree.num_leaves == 1
    assert "side" in tree.fork_causes or tree.fork_causes[1] == ""
    titled = {int(n) for n in np.flatnonzero(tree.sampled)} - set(tree.path(int(tree.leaf_nodes[0])))
    assert len(titled) == 1


def test_a_request_that_nobody_heard_is_told_the_same_reply_again(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    async def play() -> None:
        session = desk.sessions.open()
        desk.policy.gate = asyncio.Event()
        first = asyncio.create_task(desk.ask(session, *TASK))
        await asyncio.sleep(0.01)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        again = asyncio.create_task(desk.ask(session, *TASK))  # while it is being made
        await asyncio.sleep(0.01)
        desk.policy.gate.set()
        heard = await again
        assert len(session.exchanges) == len(desk.policy.prompts) == 1
        assert heard.message.content == "reply 1"
        # Heard: the same request is a new one.
        assert (await desk.ask(session, *TASK)).message.content == "reply 2"

    run(play())


def test_a_reply_that_was_made_and_not_heard_waits_for_its_request(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    async def play() -> None:
        session = desk.sessions.open()
        desk.policy.gate = asyncio.Event()
        first = asyncio.create_task(desk.ask(session, *TASK))
        await asyncio.sleep(0.01)
        first.cancel()
        desk.policy.gate.set()
        await asyncio.sleep(0.01)
        assert len(session.exchanges) == 1
        assert (await desk.ask(session, *TASK)).message.content == "reply 1"
        assert (await desk.ask(session, *TASK)).message.content == "reply 2"

    run(play())


def test_equal_requests_at_once_are_several_samples(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    async def play() -> TrajectoryTree:
        session = desk.sessions.open()
        await asyncio.gather(*(desk.ask(session, *TASK) for _ in range(3)))
        close(session)
        return tree_of(session)

    tree = run(play())
    expect_faithful(tree, desk.policy)
    assert tree.num_leaves == 3
    assert len(tree.episodes()) == 1


def test_sessions_of_one_task_are_one_tree_with_an_episode_each(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    async def play() -> TrajectoryTree:
        sessions = [desk.sessions.open() for _ in range(4)]
        for number, session in enumerate(sessions):
            first = await desk.ask(session, *TASK)
            await desk.ask(session, *TASK, told(first), user("Sure?"))
            await desk.ask(session, TASK[0], user("Another helper's work"))
            close(session, float(number))
        return tree_of(*sessions)

    tree = run(play())
    expect_faithful(tree, desk.policy)
    episodes = tree.episodes()
    assert len(episodes) == 4
    assert [tree.episode_return(leaves) for leaves in episodes] == [0.0, 1.0, 2.0, 3.0]


def test_a_session_without_a_reply_is_a_broken_leaf(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    sessions = [desk.sessions.open() for _ in range(2)]
    run(desk.ask(sessions[1], *TASK))
    sessions[0].apply(Closed(cause="timeout", reason="dead"))
    close(sessions[1])
    tree = tree_of(*sessions)
    assert tree.leaf_causes == ("timeout", "")


def test_sessions_of_before_go_on_as_they_were(tmp_path: Path) -> None:
    desk = Desk(tmp_path, record=True)
    session = desk.sessions.open(task_id="t")
    first = run(desk.ask(session, *TASK, tools=[LOOK_UP]))
    desk.sessions.reward(session, 0.25, request_id=first.request_id)
    # Killed in the middle of a line.
    path = next((tmp_path / "sessions").iterdir())
    path.write_bytes(path.read_bytes() + b'{"type":"exch')

    later = Desk(tmp_path, record=True)
    assert len(later.sessions.recover()) == 1
    again = later.sessions.of_key(session.opened.key)
    assert again.opened == session.opened
    assert [e.request_id for e in again.exchanges] == [first.request_id]
    for name in ("token_ids", "logprobs", "entropies", "policy_versions"):
        mine, other = (getattr(s.exchanges[0].completion, name) for s in (session, again))
        assert mine.dtype == other.dtype
        assert mine.tobytes() == other.tobytes()

    async def go_on() -> None:
        # Nobody can know whether the reply was heard: it is told again, and then goes on.
        heard = await later.ask(again, *TASK, tools=[LOOK_UP])
        assert heard.request_id == first.request_id
        await later.ask(again, *TASK, told(heard), user("And?"), tools=[LOOK_UP])
        later.sessions.close(again, Closed())
        await later.sessions.finish()

    run(go_on())
    assert [s.opened.session_id for s in later.ended] == [session.opened.session_id]
    assert [e.parent for e in later.ended[0].exchanges] == [-1, 0]
    assert not list((tmp_path / "sessions").iterdir())


def test_a_reward_that_comes_late_ends_the_session(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    async def play() -> None:
        session = desk.sessions.open()
        await desk.ask(session, *TASK)
        desk.sessions.close(session, Closed())
        await asyncio.sleep(0)
        assert desk.ended == []
        with pytest.raises(ConflictError, match="expected an open session"):
            desk.sessions.close(session, Closed())
        with pytest.raises(UnknownKeyError):
            desk.sessions.of_key(session.opened.key)
        desk.sessions.reward(session, 2)
        await desk.sessions.finish()
        assert desk.ended == [session]

    run(play())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9, True, "1", None])
def test_what_is_no_reward_is_refused(tmp_path: Path, value: object) -> None:
    desk = Desk(tmp_path)
    session = desk.sessions.open()
    with pytest.raises(BadRequestError, match="expected a finite number"):
        desk.sessions.reward(session, value)
    assert session.rewards == []


def test_what_has_no_room_is_told_so(tmp_path: Path) -> None:
    desk = Desk(tmp_path, config=GatewayConfig(sessions=1, requests=1))
    session = desk.sessions.open()
    with pytest.raises(OverloadedError, match="at most 1 open sessions"):
        desk.sessions.open()

    async def ask_twice() -> None:
        desk.policy.gate = asyncio.Event()
        first = asyncio.create_task(desk.ask(session, *TASK))
        await asyncio.sleep(0.01)
        with pytest.raises(OverloadedError, match="at most 1 requests"):
            await desk.ask(session, user("other"))
        desk.policy.gate.set()
        await first
        with pytest.raises(ContextLengthError):
            await desk.ask(session, user("long " * 200_000))

    run(ask_twice())


@pytest.mark.parametrize(
    ("error", "expected"),
    [(PeerTimeoutError("nobody"), DeadlineError), (WireError("gone"), UpstreamError)],
)
def test_a_policy_server_that_fails_leaves_nothing_behind(
    tmp_path: Path, error: Exception, expected: type[Exception]
) -> None:
    desk = Desk(tmp_path)

    async def play() -> None:
        session = desk.sessions.open()
        desk.policy.error = error
        with pytest.raises(expected):
            await desk.ask(session, *TASK)
        desk.policy.error = None
        assert (await desk.ask(session, *TASK)).message.content == "reply 2"
        assert len(session.exchanges) == 1

    run(play())


@pytest.mark.parametrize("choice", ["required", "function:look_up"])
def test_a_call_that_is_asked_for_is_sampled_under_its_grammar(tmp_path: Path, choice: str) -> None:
    desk = Desk(tmp_path, replies=[calling(word="tree")])
    session = desk.sessions.open()
    replied = run(desk.ask(session, *TASK, tools=[LOOK_UP], tool_choice=choice))
    assert [call.name for call in replied.message.tool_calls] == ["look_up"]
    assert "look_up" in desk.policy.samplings[0].lark
    with pytest.raises(BadRequestError, match="'no'"):
        run(desk.ask(session, *TASK, tools=[LOOK_UP], tool_choice="function:no"))


def test_a_reply_in_json_is_sampled_under_its_schema(tmp_path: Path) -> None:
    desk = Desk(tmp_path, replies=['{"tall": 12}'])
    schema = {"type": "object", "properties": {"tall": {"type": "integer"}}}
    run(desk.ask(desk.sessions.open(), *TASK, response_schema=schema))
    assert "tall" in desk.policy.samplings[0].json_schema


def test_one_call_alone_ends_a_reply_where_more_are_not_wanted(tmp_path: Path) -> None:
    desk = Desk(tmp_path, replies=[calling(word="a")])
    run(desk.ask(desk.sessions.open(), *TASK, tools=[LOOK_UP], parallel_calls=False))
    assert desk.policy.samplings[0].stop == ("</tool_call>",)


def test_what_top_p_left_is_told_so_that_it_can_be_trained_on(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    run(desk.ask(desk.sessions.open(), *TASK, top_p=0.9))
    assert desk.policy.samplings[0].tell_masks


class TestAnyAgent:
    """Whatever is asked in whatever order: the tree is what the policy saw."""

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["on", "fork", "window", "rewrite", "again", "side"]),
                st.integers(0, 30),
                st.integers(0, 2),
            ),
            min_size=1,
            max_size=12,
        )
    )
    def test_is_faithful(
        self, tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[str, int, int]]
    ) -> None:
        folder = tmp_path_factory.getbasetemp() / "any"
        folder.mkdir(exist_ok=True)
        desk = Desk(folder)

        async def play() -> TrajectoryTree:
            sessions = [desk.sessions.open() for _ in range(2)]
            chats: list[list[list[Message]]] = [[], []]
            for move, number, which in moves:
                session, known = sessions[which % 2], chats[which % 2]
                chat = [*known[number % len(known)]] if known else [*TASK]
                declared = Declared(purpose="side") if move == "side" else Declared()
                if move == "on" and known:
                    chat += [user(f"on {which}")]
                elif move == "fork" and known:
                    chat = [*chat[:2], user("on again")]
                elif move == "window":
                    chat = [system("Be brief."), user(f"window {number % 3}: {chat[-1].content}")]
                elif move == "rewrite":
                    chat = [*chat, Message(role="assistant", content="invented"), user("go on")]
                elif chat[-1].role == "assistant":
                    chat = chat[:-1]
                replied = await desk.ask(session, *chat, declared=declared)
                known.append([*chat, told(replied)])
            for session in sessions:
                close(session, 1.0)
            return tree_of(*sessions)

        tree = run(play())
        expect_faithful(tree, desk.policy)
        assert len(tree.episodes()) == 2
        assert all(tree.episode_return(leaves) in (0.0, 1.0) for leaves in tree.episodes())


def test_a_reward_that_comes_with_the_end_is_one_event_with_it(tmp_path: Path) -> None:
    kept: list[Session] = []

    async def refuse(session: Session) -> None:
        kept.append(session)
        msg = "no room"
        raise OSError(msg)

    desk = Desk(tmp_path, record=True, on_end=refuse)

    async def play() -> Session:
        session = desk.sessions.open()
        await desk.ask(session, *TASK)
        with pytest.raises(BadRequestError, match="finite"):
            desk.sessions.close(session, Closed(reward=float("nan")))
        desk.sessions.close(session, Closed(reward=0.5))
        await desk.sessions.finish()
        return session

    session = run(play())
    assert kept == [session]
    lines = next((tmp_path / "sessions").iterdir()).read_text().splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["opened", "exchange", "closed"]

    later = Desk(tmp_path, record=True)

    async def recover() -> None:
        later.sessions.recover()
        await later.sessions.finish()

    run(recover())
    assert [[r.reward for r in s.rewards] for s in later.ended] == [[0.5]]
