"""Learner, sampling engine and episodes of one run in one process, so that tokens and lag are exact.

The parts are those of `trieline train`, without its sockets and processes: at step t the trees were sampled
by the weights of step t - lag, and a run ends when so many tokens have been sampled.
"""

import asyncio
import statistics
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import torch

from trieline.actors.chat import ChatRenderer
from trieline.actors.config import ActorConfig
from trieline.actors.env_session import EnvHost
from trieline.actors.episode_slots import EpisodeSlots
from trieline.actors.player import Stage
from trieline.actors.rollout_group import GroupPlayer
from trieline.common.arrays import Int32
from trieline.config import Config
from trieline.launcher.evaluation import play_evaluation
from trieline.learner.intake.curriculum import Curriculum
from trieline.learner.model.compute_dtype import choose_dtype
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.cpu.cpu_engine import CpuEngine
from trieline.learner.policy_server.decoders.choose_decoder import load_decoder
from trieline.learner.update.learner import Learner
from trieline.learner.update.optimizer import learning_rate
from trieline.wire.messages import Completion, GenerateRequest, Sampling
from trieline.wire.tree import TrajectoryTree

QUARTERS = 4
PATIENCE_S = 3600.0
"""For a reply and an episode: a machine that others use too is to lengthen a run, not to change it."""


class LocalPolicy:
    """A policy for episodes of this process: an engine that steps while somebody waits for a reply."""

    def __init__(self, engine: CpuEngine) -> None:
        self.engine = engine
        self._replies: dict[int, asyncio.Future[Completion]] = {}
        self._numbers = count()
        self._asked: asyncio.Event

    async def generate(
        self, prompt: Int32, sampling: Sampling, *, timeout_s: float, task: str = ""
    ) -> Completion:
        number = next(self._numbers)
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        self.engine.submit(b"", GenerateRequest(request_id=number, prompt=prompt, sampling=sampling))
        self._asked.set()
        return await asyncio.wait_for(reply, timeout_s)

    async def serve(self) -> None:
        try:
            await self._serve()
        except Exception as error:  # else everybody would wait for a reply until the deadline
            for reply in self._replies.values():
                reply.set_exception(RuntimeError(f"the engine failed: {error!r}"))
            raise

    async def _serve(self) -> None:
        while True:
            while self.engine.busy:
                for finished in self.engine.step():
                    self._replies.pop(finished.ticket[1]).set_result(finished.completion)
                # Episodes go on with what they got, so that the next step has their next turns.
                await asyncio.sleep(0)
            self._asked.clear()
            await self._asked.wait()

    @asynccontextmanager
    async def serving(self) -> Any:
        self._asked = asyncio.Event()  # which belongs to one event loop, and each call runs its own
        server = asyncio.create_task(self.serve())
        try:
            yield self
        finally:
            server.cancel()


class Loop:
    """Everything of one run. Held-out tasks are the same for all, and so is the luck in sampling there."""

    def __init__(self, config: Config, model: Path, seed: int, *, lag: int = 0) -> None:
        """`seed`: of training, which the config's own settings for actors and evaluation do not see."""
        torch.manual_seed(seed)
        dtype = choose_dtype(config.model.dtype)
        patient = msgspec.structs.replace(
            config.actor, generate_timeout_s=PATIENCE_S, episode_timeout_s=PATIENCE_S
        )
        self.config = msgspec.structs.replace(config, actor=patient)
        self.learner = Learner(config.learner, model, dtype=dtype)
        self.policy = LocalPolicy(CpuEngine(load_decoder(model, dtype), PolicyServerConfig()))
        self.renderer = ChatRenderer(
            model, system_prompt=config.actor.system_prompt, template_kwargs=config.model.template_kwargs
        )
        self.actor = msgspec.structs.replace(patient, seed=seed)
        self.broken = 0
        """Sequences of the training that do not count."""
        self.curriculum = Curriculum(config.envs, seed=seed, group_size=config.learner.group_size)
        self._versions: deque[tuple[int, dict[str, torch.Tensor]]] = deque(maxlen=lag + 1)
        self.remember()

    def remember(self) -> None:
        """Keep the newest weights, and let the engine serve those of `lag` steps ago."""
        weights = {name: tensor.clone() for name, tensor in self.learner.weights().items()}
        self._versions.append((self.learner.policy_version, weights))
        version, oldest = self._versions[0]
        self.policy.engine.take_weights(oldest, version)

    @asynccontextmanager
    async def player(self, config: ActorConfig) -> AsyncIterator[GroupPlayer]:
        """Plays with the weights that the engine serves."""
        host = EnvHost(threads=4, max_stuck=4, call_timeout_s=60)
        try:
            async with self.policy.serving():
                yield GroupPlayer(
                    stage=Stage(
                        config=config,
                        envs={env.id: env for env in self.config.envs},
                        renderer=self.renderer,
                        policy=self.policy,
                        host=host,
                        slots=EpisodeSlots(256),
                    )
                )
        finally:
            await host.close()

    async def sample(self) -> list[TrajectoryTree]:
        """The trees of one step."""
        wanted = range(self.config.learner.trees_per_step)
        assignments = [self.curriculum.next_assignment() for _ in wanted]
        async with self.player(self.actor) as player:
            trees = await asyncio.gather(*(player.play(one) for one in assignments))
        for tree in trees:
            returns = [tree.episode_return(leaves) for leaves in tree.scored_episodes()]
            self.broken += len(tree.episodes()) - len(returns)
            self.curriculum.record(tree.env_id, tree.level, returns)
        return trees

    async def success(self) -> dict[str, float]:
        """Held-out success of the newest weights, by environment."""
        version, weights = self._versions[-1]
        self.policy.engine.take_weights(weights, version)
        async with self.player(self.config.actor) as player:
            report = await play_evaluation(self.config, player, tasks={})
        version, weights = self._versions[0]
        self.policy.engine.take_weights(weights, version)
        return {env.env_id: env.mean_return or 0.0 for env in report.envs}


def point(tokens: int, success: dict[str, float]) -> dict[str, Any]:
    """Of a curve."""
    return {"tokens": tokens, "success": statistics.fmean(success.values()), "envs": success}


def run(
    config: Config, model: Path, *, start: dict[str, float], seed: int, lag: int, tokens: int
) -> dict[str, Any]:
    """One run until `tokens` tokens have been sampled, from a model of the held-out success `start`.

    The learning rate falls with the tokens, not with the steps, so that all runs are equally far in its
    schedule at equal tokens.
    """
    optimizer, steps = config.learner.optimizer, config.learner.steps
    loop = Loop(config, model, seed, lag=lag)
    began, sampled, taken = time.monotonic(), 0, 0
    curve = [point(0, start)]
    while sampled < tokens:
        lr = learning_rate(optimizer, round(sampled / tokens * (steps - 1)), steps)
        trees = asyncio.run(loop.sample())
        sampled += sum(int((tree.policy_versions >= 0).sum()) for tree in trees)
        loop.learner.step(trees, lr=lr)
        loop.remember()
        taken += 1
        if sampled * QUARTERS >= tokens * len(curve):
            curve.append(point(sampled, asyncio.run(loop.success())))
    return {"curve": curve, "steps": taken, "broken": loop.broken, "seconds": time.monotonic() - began}
