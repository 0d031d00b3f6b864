import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.learner.live_parts import free_links
from tests.trees import random_tree
from trieline.learner.errors import TrainingError
from trieline.learner.intake.accepted import read_accepted, run_id_of
from trieline.learner.live_links import Admitted, LiveLinks, expectation_of
from trieline.wire.config import CurriculumConfig, EnvConfig, LinksConfig
from trieline.wire.errors import JournalError
from trieline.wire.journal import Journal, read_journal
from trieline.wire.messages import Assignment
from trieline.wire.trajectory_link import TreeSender
from trieline.wire.tree_admission import Expectation
from trieline.wire.weights_link import WeightsSubscriber

WAIT_S = 10.0


@contextlib.contextmanager
def open_links(links: LinksConfig, run_dir: Path) -> Iterator[LiveLinks]:
    with contextlib.closing(Journal(run_dir / "journal")) as journal:
        live = LiveLinks(
            links,
            run_dir,
            journal=journal,
            admitted=Admitted(
                expectation=Expectation(vocab_size=1000),
                newest_version=3,
                accepted=read_accepted(run_dir / "journal", 0),
                max_task_losses=3,
            ),
            weights_bytes=0,
            stop=threading.Event(),
        )
        with contextlib.closing(live):
            yield live


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_tree_asked_for_before_a_restart_is_taken_by_its_run_and_by_no_other(
    goes_on: bool, tmp_path: Path
) -> None:
    links = free_links()

    async def act() -> None:
        async with contextlib.AsyncExitStack() as stack:
            sender = TreeSender(links, actor_id="actor", capacity=2)
            stack.push_async_callback(sender.close)
            await sender.start()
            # No tree was in the journal when the learner ended.
            first_start = stack.enter_context(contextlib.ExitStack())
            before = first_start.enter_context(open_links(links, tmp_path / "run"))
            before.receiver.offer([Assignment(assignment_id=0, env_id="test/Random-v0", seed=0)])
            assignment = await sender.next_assignment(WAIT_S)
            await asyncio.to_thread(first_start.close)
            await sender.send(assignment.assignment_id, random_tree(np.random.default_rng(0)))
            run_dir = tmp_path / ("run" if goes_on else "another")
            after = stack.enter_context(open_links(links, run_dir))
            await sender.flush(WAIT_S)
            assert after.metrics()["link/rejected_trees"] == (0 if goes_on else 1)
            assert sender.rejected == (0 if goes_on else 1)

    asyncio.run(act())
    assert len(list(read_journal(tmp_path / "run/journal"))) == (1 if goes_on else 0)


def test_a_server_may_take_as_long_to_come_back_as_to_come(tmp_path: Path) -> None:
    links = free_links()
    with open_links(links, tmp_path / "run") as live:
        live.publish(0, {"w": torch.zeros(2)})
        with pytest.raises(TrainingError, match=r"gave up after 0\.3 s: .*no policy server lives"):
            live.wait_loaded(0, late_s=0.01, absent_s=0.3)
        fetched = tmp_path / "fetched"
        with contextlib.closing(WeightsSubscriber(links, server_id="s", fetch_folder=fetched)) as server:
            came = threading.Timer(0.3, server.start)
            came.start()
            # It comes, and then does not load.
            with pytest.raises(TrainingError, match=r"gave up after 0\.2 s: .*s serves -1"):
                live.wait_loaded(0, late_s=0.2, absent_s=WAIT_S)
            came.join()
            server.report_loaded(0, 0.0)
            assert live.wait_loaded(0, late_s=WAIT_S, absent_s=WAIT_S)


def test_levels_of_the_evaluations_alone_leave_the_training_its_own() -> None:
    env = EnvConfig(id="e", curriculum=CurriculumConfig(eval_levels=[5]))
    expected = expectation_of([env], LinksConfig(), vocab_size=9, max_positions=None, max_forks=0)
    assert expected.envs is not None
    assert expected.envs["e"].levels == {0, 5}


def test_an_id_that_can_not_be_kept_says_where(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"can't keep the run's id in .*gone/run_id: .*No such file"):
        run_id_of(tmp_path / "gone")
