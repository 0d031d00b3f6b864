"""Drawn tokens against the definition, in float64 and one logit after the other."""

import numpy as np
import pytest
import torch

from trieline.kernels.token_draw import BROKEN, Drawn, draw_tokens

ROWS, VOCAB = 24, 1000


def slow_draw(
    logits: torch.Tensor, temperature: float, uniform: float, greedy: bool
) -> tuple[int, float, float]:
    scaled = logits.double().numpy() / temperature
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    passed = np.flatnonzero(p.cumsum() > uniform)
    token = int(p.argmax() if greedy else passed[0])
    seen = p[p > 0]
    return token, np.log(p[token]), -(seen * np.log(seen)).sum()


def draw(
    logits: torch.Tensor, seed: int = 0, temperature: float = 1.0
) -> tuple[Drawn, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    uniforms, greedy = rng.random(len(logits)), rng.random(len(logits)) < 0.2
    return draw_tokens(logits, np.full(len(logits), temperature), uniforms, greedy), uniforms, greedy


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("vocab", [1, 3, 127, VOCAB])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_equals_the_definition(dtype: torch.dtype, vocab: int, temperature: float) -> None:
    logits = 3 * torch.randn(ROWS, vocab, generator=torch.Generator().manual_seed(vocab))
    logits[::3, 1::4] = -torch.inf
    logits = logits.to(dtype)
    drawn, uniforms, greedy = draw(logits, temperature=temperature)
    for row in range(ROWS):
        token, logprob, entropy = slow_draw(logits[row], temperature, uniforms[row], greedy[row])
        assert drawn.token_ids[row] == token
        np.testing.assert_allclose(drawn.logprobs[row], logprob, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(drawn.entropies[row], entropy, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("uniform", [0.0, np.nextafter(1.0, 0.0)])
def test_ends_of_the_unit_interval_draw_what_has_weight(uniform: float) -> None:
    logits = torch.full((1, 9), -torch.inf)
    logits[0, 3:6] = torch.tensor([0.0, 1.0, -1.0])
    drawn = draw_tokens(logits, np.ones(1), np.array([uniform]), np.zeros(1, bool))
    assert drawn.token_ids[0] == (3 if uniform == 0 else 5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 500, VOCAB - 1])
def test_rows_that_are_not_finite_are_marked(place: int, bad: float) -> None:
    logits = torch.randn(4, VOCAB)
    logits[2, place] = bad
    drawn, _, _ = draw(logits)
    assert (drawn.token_ids == BROKEN).tolist() == [False, False, True, False]


def test_a_row_of_nothing_is_marked() -> None:
    drawn, _, _ = draw(torch.full((2, 5), -torch.inf))
    assert (drawn.token_ids == BROKEN).all()
