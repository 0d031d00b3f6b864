"""Before the first step and now and then after it: do policy server and learner compute the same?

A few rendered prompts go through the server as an actor's would, and the learner recomputes what came back. A
server with other weights, another temperature, vocabulary or precision is found out here, and not by a
policy that learns nothing for an hour.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from transformers import AutoTokenizer

from trieline.common.arrays import Int32
from trieline.common.tally import Tally
from trieline.learner.errors import ProbeError
from trieline.learner.update.learner import Learner
from trieline.learner.update.step_metrics import add_disagreement
from trieline.wire.config import EnvConfig, LinksConfig
from trieline.wire.errors import PeerTimeoutError, WireError
from trieline.wire.generate_link import PolicyClient
from trieline.wire.messages import Completion, Sampling, ServerStatus
from trieline.wire.tree import SCORED, TrajectoryTree

log = logging.getLogger(__name__)

PROMPTS = (
    "What is 2 + 2?",
    "Name a colour.",
    "Write one line of Python that prints the numbers from 1 to 5.",
    'Ünïcode, "quotes", tabs\tand\n\nempty lines: repeat them.',
)
NEW_TOKENS = 24
CORRECTING = ("tis", "icepop", "vtrace_pg", "ppo_clip")
"""Losses in which the ratio of recomputed to recorded probability weighs a token."""
CANARY = "mismatch_kl/canary"
BLIND_STEPS = 10
"""Without canaries: steps that compared nothing before it is said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How far log-probabilities may differ, in nats."""

    mean: float
    maximum: float


# Our own server. Float32: sums of another order. Bfloat16: nothing but the log-softmax where the products of
# a row do not depend on its batch; elsewhere two orders of summing are 0.03 to 0.04 apart in the mean and 0.3
# at most on SmolLM2, and other models and texts round more or less.
# An engine of others has other kernels, and rounds its logits to the precision that it computes in: vLLM's
# are 0.05 nats off in the mean on SmolLM2 in bfloat16.
AGREEMENT = {
    "own": {
        torch.float32: Agreement(mean=1e-4, maximum=1e-3),
        torch.bfloat16: Agreement(mean=0.15, maximum=1.5),
    },
    "others": {
        torch.float32: Agreement(mean=1e-3, maximum=1e-2),
        torch.bfloat16: Agreement(mean=0.2, maximum=2.0),
    },
}


class AgreementProbe:
    """Asks the policy server at `links.generate` for a few tokens, and compares them with the learner."""

    def __init__(
        self,
        learner: Learner,
        links: LinksConfig,
        model_folder: Path,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """`template_kwargs`: arguments of the chat template, as the actors pass them."""
        self._learner = learner
        self._links = links
        self._model_folder = model_folder
        self._template_kwargs = template_kwargs or {}

    @cached_property
    def _prompts(self) -> list[Int32]:
        return [render(self._model_folder, text, self._template_kwargs) for text in PROMPTS]

    def probe(self, envs: Sequence[EnvConfig], *, timeout_s: float) -> Tally:
        """Compare a server that serves the learner's weights, before the first step.

        Raises:
            ProbeError: they do not agree, or the server takes less than `envs` ask of it; says in what. Or
                the prompts can't be rendered.
            PeerTimeoutError: the server did not answer in time.
        """
        status, completions = asyncio.run(self._ask(timeout_s))
        _check_status(status, self._learner, envs)
        figures = self._compare("probe", completions)
        mean, maximum = figures["probe/logprob_mean_abs"], figures["probe/logprob_max_abs"]
        limit = agreement_with(status.engine, self._learner.dtype)
        _check_agreement(mean, maximum, limit, self._learner.dtype)
        log.info("the policy server agrees with the learner: mean %.2g nats, max %.2g nats", mean, maximum)
        if status.engine != "own":
            log.warning("%s", about_engine(status, self._learner.config.objective.loss))
        return figures

    def canary(self, *, timeout_s: float) -> Tally:
        """Compare tokens that the server samples now; empty if that is not with the learner's weights."""
        try:
            _, completions = asyncio.run(self._ask(timeout_s))
        except WireError as error:
            log.warning("the policy server gave no tokens to compare: %s", error)
            return Tally()
        present = self._learner.policy_version
        return self._compare(
            CANARY, [c if (c.policy_versions == present).all() else None for c in completions]
        )

    def _compare(self, prefix: str, completions: Sequence[Completion | None]) -> Tally:
        learner, figures = self._learner, Tally()
        trees = [
            completion_tree(prompt, completion, learner.vocab_size)
            for prompt, completion in zip(self._prompts, completions, strict=True)
            if completion is not None
        ]
        for tree, ours in zip(trees, learner.recompute_logprobs(trees), strict=True):
            recomputed, recorded = (
                torch.from_numpy(column[tree.node_tokens(1)]) for column in (ours, tree.behavior_logprobs)
            )
            add_disagreement(figures, prefix, recomputed, recorded)
        return figures

    async def _ask(self, timeout_s: float) -> tuple[ServerStatus, list[Completion]]:
        version, temperature = self._learner.policy_version, self._learner.config.objective.temperature
        clients = [
            PolicyClient(msgspec.structs.replace(self._links, generate=address))
            for address in self._links.generate_addresses
        ]
        try:
            status, client = await _first_at(version, clients, timeout_s)
            requests = [
                client.generate(
                    prompt,
                    Sampling(max_tokens=NEW_TOKENS, temperature=temperature, seed=version + number),
                    timeout_s=timeout_s,
                )
                for number, prompt in enumerate(self._prompts)
            ]
            return status, list(await asyncio.gather(*requests))
        finally:
            for client in clients:
                await client.close()


async def _first_at(
    version: int, clients: list[PolicyClient], timeout_s: float
) -> tuple[ServerStatus, PolicyClient]:
    """The first server that serves `version`; of several, one that still starts or is late is passed over.

    Raises:
        PeerTimeoutError: none said how it is in time.
    """

    async def ask(client: PolicyClient) -> tuple[ServerStatus, PolicyClient]:
        await client.start()
        return await client.status(timeout_s), client

    asked = [asyncio.create_task(ask(client)) for client in clients]
    found: tuple[ServerStatus, PolicyClient] | None = None
    try:
        for answer in asyncio.as_completed(asked):
            try:
                found = await answer
            except PeerTimeoutError:
                if found is None and all(one.done() for one in asked):
                    raise
                continue
            if found[0].policy_version == version:
                break
    finally:
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    assert found is not None
    return found


class MismatchWatch:
    """Sees to it that the servers are compared with the learner: by a step's own trees, or by a canary."""

    def __init__(self, canary: Callable[[], Tally], *, every: int) -> None:
        """`every`: steps without a comparison before the canary is asked; 0: it never is."""
        self._canary = canary
        self._every = every
        self._blind = 0

    def look(self, *, compared: bool) -> Tally:
        """After a step and its publication: `compared`, if its trees were. Returns what the canary says.

        `Learner.check_mismatch` judges it.
        """
        self._blind = 0 if compared else self._blind + 1
        if self._blind == 0 or self._blind % (self._every or BLIND_STEPS):
            return Tally()
        figures = self._canary() if self._every else Tally()
        if figures:
            self._blind = 0
        else:
            log.warning(
                "for %d steps nothing could be compared between policy server and learner: a mismatch would "
                "not be seen (learner.canary_every = %d)",
                self._blind,
                self._every,
            )
        return figures


def render(model_folder: Path, text: str, template_kwargs: Mapping[str, Any]) -> Int32:
    """One user message as the model's own tokenizer and chat template render it.

    Raises:
        ProbeError: template and tokenizer lose some of the text, so the policy would not read what was said.
    """
    tokenizer = AutoTokenizer.from_pretrained(model_folder, local_files_only=True)
    chat = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True, **template_kwargs
    )
    token_ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    back = tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    # A template may trim the message; everything between its ends must be there.
    if text.strip() not in rendered or text.strip() not in back:
        msg = f"expected the message {text!r} to survive the chat template of {model_folder}, got {back!r}"
        raise ProbeError(msg)
    return np.asarray(token_ids, dtype=np.int32)


def completion_tree(prompt: Int32, completion: Completion, vocab_size: int) -> TrajectoryTree:
    """A prompt and one completion of it.

    Raises:
        ProbeError: the completion has tokens that the learner's model does not know.
    """
    if (highest := int(completion.token_ids.max())) >= vocab_size:
        msg = f"expected token ids below {vocab_size} from the policy server, got {highest}"
        raise ProbeError(msg)
    context, new = len(prompt), len(completion.token_ids)
    blank = np.zeros(context, dtype=np.float32)
    return TrajectoryTree(
        env_id="probe",
        task_id="probe",
        parents=np.array([-1, 0], np.int32),
        node_offsets=np.array([0, context, context + new], np.int32),
        sampled=np.array([False, True]),
        rewards=np.zeros(2, np.float32),
        fork_causes=("", ""),
        token_ids=np.concatenate([prompt, completion.token_ids]),
        behavior_logprobs=np.concatenate([blank, completion.logprobs]),
        entropies=np.concatenate([blank, completion.entropies]),
        policy_versions=np.concatenate([np.full(context, -1, np.int32), completion.policy_versions]),
        leaf_nodes=np.array([1], np.int32),
        leaf_terminated=np.array([completion.finish_reason == "stop"]),
        leaf_causes=(SCORED,),
    )


def _check_status(status: ServerStatus, learner: Learner, envs: Sequence[EnvConfig]) -> None:
    dtype = str(learner.dtype).removeprefix("torch.")
    expected = {
        "policy_version": learner.policy_version,
        "vocab_size": learner.vocab_size,
        "dtype": dtype,
    }
    wrong = [
        f"{name} {value!r}, got {getattr(status, name)!r}"
        for name, value in expected.items()
        if getattr(status, name) != value
    ]
    if wrong:
        msg = f"the policy server is not of this run: expected {'; '.join(wrong)}"
        if status.dtype != dtype:
            msg += ". Set model.dtype for all programs: `auto` depends on the machine"
        raise ProbeError(msg)
    for env in envs:
        if env.episode.max_context > status.max_context:
            msg = (
                f"{env.id}: expected episode.max_context of at most the {status.max_context} tokens that the "
                f"policy server takes, got {env.episode.max_context}"
            )
            raise ProbeError(msg)


def agreement_with(engine: str, dtype: torch.dtype) -> Agreement:
    """How far log-probabilities of a server with this engine (`ServerStatus.engine`) may be off."""
    of_engine = AGREEMENT["own" if engine == "own" else "others"]
    return of_engine.get(dtype, of_engine[torch.bfloat16])


def about_engine(status: ServerStatus, loss: str) -> str:
    """What a run with an engine of others should know of it."""
    corrects = loss in CORRECTING
    return (
        f"{status.engine} samples, whose log-probabilities differ from the learner's by rounding; loss "
        f"{loss!r} {'weighs by the recomputed ratio' if corrects else 'does not weigh by the ratio'}"
        f"{'' if corrects else ': tis, icepop and vtrace_pg do'}. Its entropies are {status.entropies}"
    )


def _check_agreement(mean: float, maximum: float, limit: Agreement, dtype: torch.dtype) -> None:
    if not (mean <= limit.mean and maximum <= limit.maximum):
        msg = (
            f"policy server and learner compute different log-probabilities for the same tokens: mean "
            f"{mean:.3g} and max {maximum:.3g} nats apart, expected at most {limit.mean:g} and "
            f"{limit.maximum:g} in {dtype}. Training on such data would be silently wrong; "
            "learner.probe = false starts all the same"
        )
        raise ProbeError(msg)
