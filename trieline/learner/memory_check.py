"""Whether a run fits on its GPU, told before it starts."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from trieline.learner.config import LearnerConfig
from trieline.learner.errors import LearnerError
from trieline.learner.model.compute_dtype import choose_dtype
from trieline.learner.model_folder.shapes import SHAPES
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.update.memory_need import serving_need, training_need
from trieline.wire.config import ModelConfig

GIB = 2**30
PROBED_TOKENS = (2048, 4096)
"""Packs from which the memory of a token is told at first."""
MOST_TOKENS = 1 << 22
"""Of a pack that is told of."""
PROBES = 8
TOLERANCE = 1e-3
"""Of the card, by which a pack that is said to fit may be too large."""


class UnknownModelError(LearnerError):
    """A model whose shape can't be told."""


def config_of(model: str) -> Any:
    """The Hugging Face configuration of a folder, or of a shape that has a name.

    Raises:
        UnknownModelError: it is neither.
    """
    if model in SHAPES:
        return SHAPES[model]
    if not (Path(model) / "config.json").is_file():
        msg = f"expected a folder with a config.json, or one of {', '.join(SHAPES)}; got {model}"
        raise UnknownModelError(msg)
    return AutoConfig.from_pretrained(model, local_files_only=True, trust_remote_code=False)


def memory_lines(config: Any, *, card_bytes: int, tokens: Sequence[int], kv_tokens: int) -> Iterator[str]:
    """A table for people: each part in GiB, and what is left of the card."""
    yield f"{'':34}{'weights':>9}{'gradients':>11}{'moments':>9}{'activations':>13}{'other':>7}{'in all':>8}"
    for checkpointed in (False, True):
        for count in tokens:
            need = training_need(config, tokens=count, checkpointed=checkpointed)
            what = f"learner, {count} tokens" + (", layers recomputed" if checkpointed else "")
            parts = (need.weights, need.gradients, need.moments, need.activations, need.overhead, need.total)
            columns = zip(parts, (9, 11, 9, 13, 7, 8), strict=True)
            yield f"{what:34}" + "".join(f"{part / GIB:{width}.1f}" for part, width in columns)
        fitting = fitting_tokens(config, card_bytes, checkpointed=checkpointed)
        how = " if layers are recomputed" if checkpointed else ""
        yield f"  of {card_bytes / GIB:.1f} GiB, packs of up to {fitting} tokens fit{how}"
    moments = training_need(config, tokens=PROBED_TOKENS[0], eight_bit=True).moments
    few, many = (
        fitting_tokens(config, card_bytes, checkpointed=again, eight_bit=True) for again in (False, True)
    )
    yield (
        f"moments in 8 bits: {moments / GIB:.1f}; then packs of up to {few} tokens fit, {many} if layers are "
        "recomputed"
    )
    serving = serving_need(config, kv_tokens=kv_tokens)
    yield f"policy server, {kv_tokens} tokens of cache: {serving / GIB:.1f}"


def fitting_tokens(
    config: Any,
    card_bytes: int,
    *,
    dtype: torch.dtype = torch.bfloat16,
    checkpointed: bool = False,
    eight_bit: bool = False,
) -> int:
    """The most tokens of a pack with which a learner alone fits; 0: with none.

    What is needed grows with the tokens, and faster the more there are: where layers are recomputed, not at
    all while the head needs more than they do. So a line through two packs finds too many tokens at worst,
    and one through packs of that size finds fewer.
    """

    def need(tokens: int) -> int:
        return training_need(
            config, tokens=tokens, dtype=dtype, checkpointed=checkpointed, eight_bit=eight_bit
        ).total

    few, many = PROBED_TOKENS
    least, most = need(few), need(many)
    for _ in range(PROBES):
        a_token = (most - least) / (many - few)
        found = min(few + int((card_bytes - least) / max(a_token, 1.0)), MOST_TOKENS)
        if found <= many:
            break
        few, many = found // 2, found
        most = need(many)
        if most <= card_bytes * (1 + TOLERANCE):
            break
        least = need(few)
    return max(found, 0)


def shortage(
    model: ModelConfig, learner_config: LearnerConfig, server_config: PolicyServerConfig, card_bytes: int
) -> tuple[str, str]:
    """What a run's learner and its policy server on one card need, and what to do if it is too much."""
    shape = config_of(model.path)
    eight_bit = learner_config.optimizer.states == "8bit"
    dtype = choose_dtype(model.dtype, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    need = training_need(
        shape,
        tokens=learner_config.max_tokens,
        dtype=dtype,
        checkpointed=learner_config.gradient_checkpointing,
        with_reference=learner_config.objective.kl_coef > 0,
        eight_bit=eight_bit,
    )
    server = 0
    if server_config.device != "cpu" and server_config.backend == "own":
        server = serving_need(shape, kv_tokens=server_config.kv_tokens, dtype=dtype)
    parts = f"{need.total / GIB:.0f} GiB for the learner"
    if server:
        parts += f" and {server / GIB:.0f} for a policy server on the same GPU"
    text = f"about {parts}, of {card_bytes / GIB:.0f}"
    if need.total + server <= card_bytes:
        return text, ""
    free = card_bytes - server - need.reference
    checkpointed = learner_config.gradient_checkpointing
    for bits, first in ((eight_bit, ""), (True, "learner.optimizer.states to '8bit', and ")):
        if fitting := fitting_tokens(shape, free, dtype=dtype, checkpointed=checkpointed, eight_bit=bits):
            return text, f"set {first}learner.max_tokens to {fitting} or less"
    return text, "train with learner.lora, on several GPUs, or a smaller model"
