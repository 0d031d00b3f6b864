"""Sessions over a scripted policy, without HTTP: what an agent asks, and the tree that comes of it."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tests.actors.chat_folder import write_chat_folder
from tests.actors.scripted_policy import completion
from trieline.actors.chat import ChatRenderer
from trieline.actors.gateway.asked import Asked, Declared, Replied
from trieline.actors.gateway.config import GatewayConfig
from trieline.actors.gateway.exchange import Closed
from trieline.actors.gateway.replier import Replier, SamplingLimits
from trieline.actors.gateway.session import Session
from trieline.actors.gateway.session_log import SessionLog
from trieline.actors.gateway.session_tree import session_tree
from trieline.actors.gateway.sessions import Sessions
from trieline.common.arrays import Int32
from trieline.common.message import Message, Tool, ToolCall
from trieline.envs.tool_calls import write_calls
from trieline.wire.messages import Completion, Sampling
from trieline.wire.tree import TrajectoryTree

T = TypeVar("T")

LIMITS = SamplingLimits(
    max_tokens=512,
    max_context=100_000,
    temperature=1.0,
    top_p=1.0,
    top_k=0,
    fixed=False,
    timeout_s=20.0,
    max_exchanges=2000,
)
LOOK_UP: Tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


class QueuedPolicy:
    """Says one text after the other; the tokens are the tokenizer's own, and the prompts are kept."""

    def __init__(self, renderer: ChatRenderer, replies: Sequence[str] = ()) -> None:
        self.renderer = renderer
        self.replies = [*replies]
        self.prompts: list[Int32] = []
        self.samplings: list[Sampling] = []
        self.sampled: list[Completion] = []
        self.gate: asyncio.Event | None = None
        self.error: Exception | None = None

    async def generate(
        self, prompt: Int32, sampling: Sampling, *, timeout_s: float, task: str = ""
    ) -> Completion:
        self.prompts.append(prompt)
        self.samplings.append(sampling)
        number = len(self.prompts)
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        text = self.replies.pop(0) if self.replies else f"reply {number}"
        tokens = self.renderer.reply_tokens(text)[: sampling.max_tokens]
        made = completion(tokens)
        self.sampled.append(made)
        return made


class Desk:
    """One gateway's sessions."""

    def __init__(
        self,
        folder: Path,
        *,
        replies: Sequence[str] = (),
        config: GatewayConfig | None = None,
        record: bool = False,
        on_end: Callable[[Session], Coroutine[Any, Any, None]] | None = None,
        renderer: ChatRenderer | None = None,
    ) -> None:
        model = folder / "model"
        if renderer is None and not model.exists():
            write_chat_folder(model)
        self.renderer = renderer or ChatRenderer(model, system_prompt="")
        self.policy = QueuedPolicy(self.renderer, replies)
        self.ended: list[Session] = []
        self.sessions = Sessions(
            config or GatewayConfig(),
            replier=Replier(renderer=self.renderer, policy=self.policy),
            limits=LIMITS,
            on_end=on_end or self._note,
            record=SessionLog(folder / "sessions") if record else None,
        )

    async def ask(
        self,
        session: Session,
        *messages: Message,
        tools: Sequence[Tool] = (),
        declared: Declared | None = None,
        **fields: Any,
    ) -> Replied:
        asked = Asked(
            model="m", messages=messages, tools=tuple(tools), declared=declared or Declared(), **fields
        )
        return await self.sessions.reply(session, asked, body_of(asked))

    async def _note(self, session: Session) -> None:
        self.ended.append(session)


def body_of(asked: Asked) -> bytes:
    return repr(asked).encode()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


def system(text: str) -> Message:
    return Message(role="system", content=text)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def told(replied: Replied) -> Message:
    """The reply as clients send it back: calls in new words, thinking left out."""
    message = replied.message
    calls = tuple(
        ToolCall(name=c.name, arguments=json.loads(json.dumps(c.arguments)), id=c.id)
        for c in message.tool_calls
    )
    return Message(role="assistant", content=message.content.strip(), tool_calls=calls)


def answer(replied: Replied, text: str, number: int = 0) -> Message:
    call = replied.message.tool_calls[number]
    return Message(role="tool", content=text, name=call.name, tool_call_id=call.id)


def calling(**arguments: Any) -> str:
    return write_calls("", [ToolCall(name="look_up", arguments=arguments)])


def close(session: Session, reward: float = 1.0, closed: Closed | None = None) -> None:
    from trieline.actors.gateway.exchange import Rewarded

    session.apply(Rewarded(reward=reward))
    session.apply(closed or Closed())


def tree_of(*sessions: Session) -> TrajectoryTree:
    tree = session_tree(sessions, env_id="e", task_id="t")
    tree.validate()
    return tree


def expect_faithful(tree: TrajectoryTree, policy: QueuedPolicy) -> None:
    """What the policy saw before each reply is what stands before it in the tree, and each reply once."""
    seen = sorted(
        (np.concatenate([p, c.token_ids]).tolist(), len(p))
        for p, c in zip(policy.prompts, policy.sampled, strict=True)
    )
    found = []
    for node in np.flatnonzero(tree.sampled):
        path = [tree.token_ids[tree.node_tokens(n)] for n in tree.path(int(node))]
        found.append((np.concatenate(path).tolist(), sum(map(len, path[:-1]))))
    assert sorted(found) == seen
