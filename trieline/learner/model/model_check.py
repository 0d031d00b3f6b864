"""Proof on the user's own model: loss and gradients on a packed trie equal those of separate sequences.

The reference is transformers' own forward with its own attention, one sequence at a time, in float64; the
loss is a random weighting of all predicted tokens, so that no error can cancel. Parts that round to float32
whatever the model computes in are replaced (`use_float64`) where they are known; where the model rounds all
the same (`Roundings`), both are only compared to float32's precision.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trieline.common.arrays import Int32
from trieline.learner.batch.trie import build_trie
from trieline.learner.model.float64_parts import Roundings, use_float64, use_plain_attention
from trieline.learner.model.tree_forward import TreeModel, layer_windows, model_name
from trieline.learner.model_folder.loading import load_causal_lm

# Rounding in float64 is 1e-16; sums over a model's depth and width leave this much (DESIGN, section 5).
LOSS_TOLERANCE = 1e-12
GRADIENT_TOLERANCE = 1e-10
ROUNDED_LOSS_TOLERANCE, ROUNDED_GRADIENT_TOLERANCE = 1e-6, 1e-3
"""Of models that round to float32 themselves; the gradients of a few numbers a layer are small sums of large
terms. What sees a wrong token is far beyond."""
TRUNK, BRANCHES, BRANCH = 24, 5, 12
WINDOW = 9
"""Of models with sliding windows: theirs are longer than what is worth computing in float64."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCheck:
    """What came of the comparison."""

    exact: bool
    lines: list[str]
    """For people."""


def check_model(folder: Path, *, seed: int = 0) -> ModelCheck:
    """Compare both ways on the model in `folder`.

    Raises:
        ModelRefusedError: the model's layers can't be made exact on tries; the message names why.
        ModelSourceError: it can't be loaded whole.
    """
    model = load_causal_lm(folder, torch.float64)
    use_float64(model)
    shortened = _shorten_windows(model)
    sequences = _random_sequences(model.config.get_text_config().vocab_size, seed)
    rng = np.random.default_rng(seed)
    weights = [torch.from_numpy(rng.normal(size=len(s) - 1)) for s in sequences]
    use_plain_attention(model)
    with Roundings() as roundings:
        loss = sum(
            (_loss_alone(model, s, w) for s, w in zip(sequences, weights, strict=True)), torch.zeros(())
        )
    loss_limit, limit = LOSS_TOLERANCE, GRADIENT_TOLERANCE
    if roundings.seen:
        loss_limit, limit = ROUNDED_LOSS_TOLERANCE, ROUNDED_GRADIENT_TOLERANCE
    expected_loss, expected = _backward(model, loss)
    tree_model = TreeModel(model)
    got_loss, got = _backward(model, _loss_on_trie(tree_model, sequences, weights))
    loss_error = abs(got_loss - expected_loss) / max(1.0, abs(expected_loss))
    errors = {name: _relative_error(got[name], gradient) for name, gradient in expected.items()}
    worst = max(errors, key=lambda name: errors[name])
    exact = loss_error <= loss_limit and errors[worst] <= limit
    trie = build_trie(sequences)
    return ModelCheck(
        exact=exact,
        lines=[
            f"{model_name(model)}: {model.num_parameters() / 1e6:.1f} M parameters, in float64",
            *shortened,
            f"{len(sequences)} sequences of L = {trie.num_sequence_tokens} tokens in all, "
            f"N = {trie.num_tokens} in the trie",
            f"loss: relative difference {loss_error:.1e} (limit {loss_limit:.0e})",
            f"gradients of {len(errors)} parameters: largest relative difference {errors[worst]:.1e}, "
            f"of {worst} (limit {limit:.0e})",
            "exact: packed tries train this model as separate sequences do"
            if exact
            else "NOT exact: do not train it on tries",
        ],
    )


def _shorten_windows(model: Any) -> list[str]:
    """Let windows hide something of sequences as short as these. Returns a line for people, or none."""
    config = model.config.get_text_config()
    longest = max(layer_windows(config))
    if longest <= WINDOW:
        return []
    config.sliding_window = WINDOW
    for module in model.modules():
        # Some layers have it from their configuration, some a copy.
        if getattr(module, "sliding_window", None) is not None:
            module.sliding_window = WINDOW
    return [f"its windows of {longest} tokens shortened to {WINDOW}, less than these sequences have"]


def _random_sequences(vocab_size: int, seed: int) -> list[Int32]:
    """Branches off a trunk at its end and inside it, one that ends inside, one that forks again."""
    rng = np.random.default_rng(seed)
    trunk = rng.integers(0, vocab_size, TRUNK)
    branches = [np.concatenate([trunk, rng.integers(0, vocab_size, BRANCH)]) for _ in range(BRANCHES)]
    inside = np.concatenate([trunk[: TRUNK // 2], rng.integers(0, vocab_size, BRANCH)])
    again = np.concatenate([branches[0][: TRUNK + BRANCH // 2], rng.integers(0, vocab_size, BRANCH)])
    return [s.astype(np.int32) for s in (*branches, inside, again, trunk)]


def _loss_alone(model: nn.Module, tokens: Int32, weights: Tensor) -> Tensor:
    ids = torch.from_numpy(tokens.astype(np.int64))[None]
    logprobs = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
    loss: Tensor = (weights * logprobs.gather(-1, ids[0, 1:, None])[:, 0]).sum()
    return loss


def _loss_on_trie(model: TreeModel, sequences: list[Int32], weights: list[Tensor]) -> Tensor:
    trie = build_trie(sequences)
    targets = np.flatnonzero(trie.predecessor >= 0)
    logprobs, _ = model.logprobs(
        model.hidden_states(trie),
        torch.from_numpy(trie.predecessor[targets].astype(np.int64)),
        torch.from_numpy(trie.token_ids[targets].astype(np.int64)),
        temperature=1.0,
    )
    place = np.zeros(trie.num_tokens, np.int64)
    place[targets] = np.arange(len(targets))
    columns = [logprobs[torch.from_numpy(place[path[1:]])] for path in trie.paths]
    return sum(((w * column).sum() for w, column in zip(weights, columns, strict=True)), torch.zeros(()))


def _backward(model: nn.Module, loss: Tensor) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach()), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


def _relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm().clamp_min(1e-300))
