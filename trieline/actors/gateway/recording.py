"""`trieline gateway --record`: what agents ask a policy server, as trees in a journal. No learner anywhere.

A session becomes a tree when it is over: closed with a reward or a cause. Until then it is in the folder
`sessions`, and a recorder that was killed goes on with it when it starts again.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence, Set
from pathlib import Path

from trieline.actors.config import ActorConfig
from trieline.actors.gateway.config import GatewayConfig
from trieline.actors.gateway.gateway import Gateway, limits_of
from trieline.actors.gateway.replier import GatewayRenderer
from trieline.actors.gateway.session import Session
from trieline.actors.gateway.session_notes import bounded, session_notes
from trieline.actors.gateway.session_tree import session_tree
from trieline.common.process_name import new_process_name
from trieline.common.signals import STOP_SIGNALS
from trieline.wire.config import LinksConfig
from trieline.wire.journal import Journal, read_journal
from trieline.wire.journal_header import JournalHeader
from trieline.wire.messages import TreeDelivery
from trieline.wire.policy_client import PolicyClient
from trieline.wire.tree import TrajectoryTree

log = logging.getLogger(__name__)

JOURNAL, SESSIONS = "journal", "sessions"
"""Folders of a record."""
SERVER_WAIT_S = 600.0
"""For a policy server to be up."""
SESSION = "session"
"""The note of a tree that names its session."""
ENV_ID = "gateway"
"""Of sessions that say none."""


class Recorder:
    """Writes the sessions that are over: those that end while others are forced to the disk go together.

    The disk takes some ten milliseconds, whose wait is a thread's: agents are served meanwhile.
    """

    def __init__(self, journal: Journal, *, known: Set[str] = frozenset()) -> None:
        """`known`: sessions that are in the journal already."""
        self._journal = journal
        self._known = known
        self._name = new_process_name()
        self._due: list[TrajectoryTree] = []
        self._next: asyncio.Task[None] | None = None
        """Will write what is due."""
        self._writing = asyncio.Lock()

    async def __call__(self, session: Session) -> None:
        """As `sessions.OnEnd`."""
        if session.opened.session_id in self._known:
            return
        tree = recorded_tree([session])
        tree.validate()
        self._due.append(tree)
        if self._next is None:
            self._next = asyncio.create_task(self._write_due())
        await asyncio.shield(self._next)

    async def _write_due(self) -> None:
        async with self._writing:
            trees, self._due, self._next = self._due, [], None
            await asyncio.to_thread(self._write, trees)

    def _write(self, trees: Sequence[TrajectoryTree]) -> None:
        for tree in trees:
            number = self._journal.num_records
            delivery = TreeDelivery(
                actor_id=self._name, sequence_number=number, assignment_id=number, tree=tree
            )
            self._journal.append(delivery)
        self._journal.sync()


def recorded_sessions(folder: Path) -> set[str]:
    """The ids of the sessions whose trees are in a journal: one that was killed may have them open still."""
    return {delivery.tree.info.get(SESSION, "") for delivery in read_journal(folder)}


def recorded_tree(
    sessions: Sequence[Session], *, env_id: str = "", task_id: str = "", level: int | None = None
) -> TrajectoryTree:
    """The tree of sessions of one task, with notes for people. What is not given the first of them says."""
    opened = sessions[0].opened
    info = {**session_notes(sessions), **opened.metadata, SESSION: opened.session_id}
    return session_tree(
        sessions,
        env_id=env_id or opened.env_id or ENV_ID,
        task_id=task_id or opened.task_id or opened.session_id,
        level=opened.level if level is None else level,
        info=bounded(info),
    )


def run_recorder(
    config: GatewayConfig,
    *,
    actor: ActorConfig,
    links: LinksConfig,
    renderer: GatewayRenderer,
    header: JournalHeader | None,
    folder: Path,
) -> int:
    """Record until a signal comes. Returns the exit status.

    Raises:
        GatewaySetupError, GatewayRecordError, JournalError, AddressError: nothing was started.
    """

    journal = Journal(folder / JOURNAL, header=header)
    # Between the journal and the end of its record a session is in both.
    known = recorded_sessions(folder / JOURNAL) if any((folder / SESSIONS).glob("*")) else set()

    async def serve() -> None:
        policy = PolicyClient(links)
        try:
            await policy.start()
            status = await policy.status(SERVER_WAIT_S)
            gateway = Gateway(
                config,
                renderer=renderer,
                policy=policy,
                limits=limits_of(config, actor, max_context=status.max_context),
                on_end=Recorder(journal, known=known),
                record=folder / SESSIONS,
                seed=actor.seed,
            )
            try:
                await gateway.start()
                await asyncio.Event().wait()
            finally:
                await gateway.close()
        finally:
            await policy.close()

    async def until_stopped() -> None:
        serving = asyncio.create_task(serve())
        for number in STOP_SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    with contextlib.closing(journal):
        asyncio.run(until_stopped())
    return 0
