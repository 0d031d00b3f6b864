"""One worker: takes assignments, plays their groups side by side, and sends the trees.

Invariant: a tree is the wire's from the moment it is finished; the worker ends only after the wire had its
chance to deliver what is left.
"""

import asyncio
import logging
import os
from collections.abc import Sequence

import msgspec

from trieline.actors.chat import ChatRenderer
from trieline.actors.config import ActorConfig
from trieline.actors.env_session import EnvHost
from trieline.actors.episode_slots import EpisodeSlots
from trieline.actors.errors import StuckEnvironmentsError
from trieline.actors.gateway.config import GatewayConfig
from trieline.actors.gymnasium_player import play_environments
from trieline.actors.player import MakePlayer, Stage
from trieline.common.process_name import new_process_name
from trieline.common.signals import STOP_SIGNALS, keep_handlers_from_children, release_stop_signals
from trieline.wire.config import EnvConfig, LinksConfig
from trieline.wire.errors import PeerTimeoutError
from trieline.wire.generate_link import PolicyClient
from trieline.wire.messages import Assignment
from trieline.wire.trajectory_link import Stopped, TreeSender

log = logging.getLogger(__name__)

EXIT_STOPPED = 5
"""The learner said stop. Not 0, with which an environment may end the process."""
EXIT_STUCK = 3
"""Too many hanging environments: a fresh process gets rid of them."""
EXIT_ASKED = 4
"""A signal came to this worker, or its parent is gone."""

PARENT_CHECK_S = 1.0
# A worker waits for its learner as long as it takes, and says so this often.
NOTICE_S = 60.0
# Long enough for a learner between two steps to journal what is under way; short against a user's patience.
FLUSH_S = 5.0


class _StopRequest(Exception):
    """This worker was asked to end, by a signal or by the end of its parent."""


class ActorWorker:
    """The event loop of one worker process."""

    def __init__(
        self,
        config: ActorConfig,
        *,
        renderer: ChatRenderer,
        envs: Sequence[EnvConfig],
        links: LinksConfig,
        gateway: GatewayConfig | None = None,
        parent_pid: int | None = None,
        make_player: MakePlayer = play_environments,
        lasting_name: str = "",
    ) -> None:
        """`parent_pid`: end when this is no longer the parent; None: don't look.

        `lasting_name`: by which the learner knows this worker, over restarts; "": one of this process.
        """
        self._config = config
        self._parent_pid = parent_pid
        self._stop = asyncio.Event()
        self._slots = EpisodeSlots(config.episodes)
        self._sender = TreeSender(
            links,
            actor_id=lasting_name or new_process_name(),
            capacity=config.capacity,
            episodes=config.episodes,
            lasting=bool(lasting_name),
        )
        self._policy = PolicyClient(links)
        self._earlier = earlier_policy(config, links)
        self._host = EnvHost(
            threads=config.env_threads,
            max_stuck=config.max_stuck_threads,
            call_timeout_s=config.turn_timeout_s,
        )
        self._player = make_player(
            Stage(
                config=config,
                envs={env.id: env for env in envs},
                renderer=renderer,
                policy=self._policy,
                earlier=self._earlier,
                host=self._host,
                slots=self._slots,
                gateway=gateway or GatewayConfig(),
                trees=self._sender,
            )
        )

    def stop(self) -> None:
        """Ask to end. From the event loop."""
        self._stop.set()

    async def run(self) -> int:
        """Work until the learner says stop, or somebody asks to. Returns the exit status."""
        status = EXIT_STOPPED
        try:
            await self._policy.start()
            if self._earlier is not None:
                await self._earlier.start()
            await self._player.start()
            await self._sender.start()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._wait_for_stop())
                tasks.create_task(self._report_load())
                tasks.create_task(self._take_assignments(tasks))
        except* Stopped as stopped:
            log.info("the learner says stop: %s", _first(stopped))
        except* _StopRequest as request:
            log.info("stopping: %s", _first(request))
            status = EXIT_ASKED
        except* StuckEnvironmentsError as stuck:
            log.error("%s: this worker ends", _first(stuck))
            status = EXIT_STUCK
        finally:
            await self._close(stuck=status == EXIT_STUCK)
        return status

    async def _take_assignments(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            try:
                assignment = await self._sender.next_assignment(NOTICE_S)
            except PeerTimeoutError as idle:
                if not self._slots.running:
                    log.warning("nothing to do: %s", idle)
                continue
            tasks.create_task(self._play(assignment), name=f"assignment {assignment.assignment_id}")

    async def _play(self, assignment: Assignment) -> None:
        tree = await self._player.play(assignment)
        await self._sender.send(assignment.assignment_id, tree)

    async def _report_load(self) -> None:
        while True:
            self._sender.running_episodes = self._slots.running
            await asyncio.sleep(PARENT_CHECK_S / 2)

    async def _wait_for_stop(self) -> None:
        while True:
            try:
                async with asyncio.timeout(PARENT_CHECK_S):
                    await self._stop.wait()
            except TimeoutError:
                if self._parent_pid is not None and os.getppid() != self._parent_pid:
                    reason = f"its parent {self._parent_pid} is gone"
                    raise _StopRequest(reason) from None
                continue
            reason = "asked to"
            raise _StopRequest(reason)

    async def _close(self, *, stuck: bool) -> None:
        try:
            await self._sender.flush(FLUSH_S)
        except PeerTimeoutError as error:
            log.warning(
                "trees are left that the learner did not acknowledge; it gives their tasks away: %s", error
            )
        if self._sender.rejected:
            log.warning("the learner rejected %d trees of this worker", self._sender.rejected)
        await self._player.close()
        await self._sender.close(stuck=stuck)
        await self._policy.close()
        if self._earlier is not None:
            await self._earlier.close()
        await self._host.close()


def earlier_policy(config: ActorConfig, links: LinksConfig) -> PolicyClient | None:
    """A link to the server of an earlier version, not started; None if none is named."""
    if not config.earlier_policy:
        return None
    return PolicyClient(msgspec.structs.replace(links, generate=config.earlier_policy))


def run_worker(
    config: ActorConfig,
    *,
    renderer: ChatRenderer,
    envs: Sequence[EnvConfig],
    links: LinksConfig,
    gateway: GatewayConfig | None = None,
    parent_pid: int | None = None,
    make_player: MakePlayer = play_environments,
    lasting_name: str = "",
) -> int:
    """Run a worker to its end here; SIGTERM and SIGINT stop it cleanly. Returns the exit status."""

    async def run() -> int:
        worker = ActorWorker(
            config,
            renderer=renderer,
            envs=envs,
            links=links,
            gateway=gateway,
            parent_pid=parent_pid,
            make_player=make_player,
            lasting_name=lasting_name,
        )
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, worker.stop)
        keep_handlers_from_children()
        release_stop_signals()
        return await worker.run()

    return asyncio.run(run())


def _first(group: BaseExceptionGroup) -> BaseException:
    """The first error inside nested groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
