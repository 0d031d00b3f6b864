import numpy as np
import pytest

from trieline.learner.batch.entropy_scaling import entropy_scales
from trieline.learner.objective_config import ObjectiveConfig

ENTROPIES = [np.array([0.1, 0.3], np.float32), np.array([1.0], np.float32), np.array([2.0, 8.0], np.float32)]


def scales(kind: str, **limits: float) -> list[list[float]]:
    config = ObjectiveConfig(entropy_scaling=kind, **limits)  # type: ignore[arg-type]
    return [s.tolist() for s in entropy_scales(ENTROPIES, config)]


def test_off_is_one() -> None:
    assert scales("off") == [[1, 1], [1], [1, 1]]


def test_sequence_compares_rollouts() -> None:
    mean = (0.2 + 1.0 + 5.0) / 3
    assert scales("sequence", entropy_scale_min=0.2) == [
        pytest.approx([0.2, 0.2]),  # 0.2 / mean, clipped
        pytest.approx([1.0 / mean]),
        pytest.approx([2.0, 2.0]),
    ]


def test_token_compares_tokens() -> None:
    mean = (0.1 + 0.3 + 1.0 + 2.0 + 8.0) / 5
    got = scales("token", entropy_scale_min=0.1, entropy_scale_max=1.5)
    assert got == [
        pytest.approx([0.1, 0.3 / mean], rel=1e-6),
        pytest.approx([1.0 / mean]),
        pytest.approx([2.0 / mean, 1.5]),
    ]


def test_greedy_sampling_scales_nothing() -> None:
    config = ObjectiveConfig(entropy_scaling="sequence")
    assert [s.tolist() for s in entropy_scales([np.zeros(2, np.float32)], config)] == [[1, 1]]
    assert entropy_scales([], config) == []
