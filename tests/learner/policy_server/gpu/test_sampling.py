"""The draw on a device is the draw of the CPU, whatever is cut and told."""

import numpy as np
import pytest
import torch

from tests.learner.policy_server.cpu.test_sampling import how
from trieline.learner.policy_server.batching.sampling import RowSampling
from trieline.learner.policy_server.cpu.sampling import sample
from trieline.learner.policy_server.errors import NonFiniteLogitsError
from trieline.learner.policy_server.gpu import sampling as on_device
from trieline.learner.policy_server.gpu.sampling import sample_on_device

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def mixed(rows: int, vocab: int) -> RowSampling:
    """All that can be asked for, side by side."""
    rng = np.random.default_rng(rows)
    allowed = [rng.random(vocab) < 0.3 if row % 3 == 1 else None for row in range(rows)]
    for flags in allowed:
        if flags is not None:
            flags[7] = True
    settings = how(
        rows,
        temperature=rng.choice([0.0, 0.5, 1.0, 1.7], rows),
        top_p=rng.choice([1.0, 0.9, 0.3], rows),
        top_k=rng.choice([0, 0, 1, 40, 10_000], rows),
        seed=np.arange(rows),
        position=rng.integers(0, 500, rows),
    )
    return RowSampling(
        **{name: getattr(settings, name) for name in ("temperature", "top_p", "top_k", "seed", "position")},
        allowed=tuple(allowed),
        tell_masks=tuple(row % 2 == 0 for row in range(rows)),
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("at_once", [1 << 24, 3 * 700])
def test_tokens_figures_and_masks_are_those_of_the_cpu(
    device: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_device, "NUMBERS_AT_ONCE", at_once)
    logits = 3.0 * torch.randn(64, 700, generator=torch.Generator().manual_seed(0))
    logits[5, 100:] = -torch.inf
    settings = mixed(64, 700)
    expected, found = sample(logits, settings), sample_on_device(logits.to(device), settings)
    np.testing.assert_array_equal(found.token_ids, expected.token_ids)
    np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-5)
    np.testing.assert_allclose(found.entropies, expected.entropies, atol=1e-5)
    assert found.masks.keys() == expected.masks.keys()
    assert len(found.masks) > 20
    for row, runs in expected.masks.items():
        np.testing.assert_array_equal(found.masks[row], runs)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_is_an_error(device: str, broken: float) -> None:
    logits = torch.zeros(3, 50)
    logits[1, 4] = broken
    with pytest.raises(NonFiniteLogitsError):
        sample_on_device(logits.to(device), how(3))


def test_greedy_takes_the_first_of_equals() -> None:
    logits = torch.zeros(2, 9)
    logits[:, [3, 5]] = 1.0
    assert sample_on_device(logits, how(2, temperature=0.0)).token_ids.tolist() == [3, 3]
