"""From the request to the gradient: what was sampled under masks is scored under them, to rounding."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.learner.policy_server.cpu.tiny import generate
from trieline.actors.rollout import Rollout, Turn
from trieline.actors.tree_builder import build_tree
from trieline.learner.config import LearnerConfig
from trieline.learner.model_folder.tiny_model import save_tiny_model
from trieline.learner.objective_config import ObjectiveConfig
from trieline.learner.policy_server.batching.grammars import Grammars
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.cpu.cpu_engine import CpuEngine
from trieline.learner.policy_server.decoders.choose_decoder import load_decoder
from trieline.learner.update.learner import Learner
from trieline.learner.update.train_step import recompute_logprobs
from trieline.wire.messages import Completion, GenerateRequest, Sampling
from trieline.wire.tree import TrajectoryTree

END = 258
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"move": {"enum": ["left", "right", "up"]}, "n": {"type": "integer", "maximum": 99}},
        "required": ["move", "n"],
        "additionalProperties": False,
    }
)
SAMPLINGS: dict[str, dict[str, Any]] = {
    "grammar": {"json_schema": SCHEMA},
    "top_p": {"top_p": 0.7, "tell_masks": True},
    "top_k": {"top_k": 5, "tell_masks": True},
    "all": {"json_schema": SCHEMA, "top_p": 0.9, "top_k": 50, "tell_masks": True},
}
PROMPT = np.frombuffer(b"which way?", np.uint8).astype(np.int32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    save_tiny_model(path)
    return path


def sampled(folder: Path, **sampling: Any) -> list[Completion]:
    grammars = Grammars(folder / "tokenizer.json", 260)
    engine = CpuEngine(
        load_decoder(folder, torch.float32), PolicyServerConfig(), policy_version=0, grammars=grammars
    )
    try:
        settings: dict[str, Any] = {"max_tokens": 30, "stop_ids": (END,)} | sampling
        asked = [
            GenerateRequest(request_id=i, prompt=PROMPT, sampling=Sampling(seed=i, **settings))
            for i in range(12)
        ]
        return generate(engine, *asked)
    finally:
        engine.close()


def tree_of(completions: Sequence[Completion]) -> TrajectoryTree:
    rollouts = [
        Rollout(
            index=i,
            prompt=PROMPT,
            turns=[Turn(context=PROMPT, completion=completion, reply="")],
            rewards=[float(i % 3)],
            terminated=True,
        )
        for i, completion in enumerate(completions)
    ]
    tree = build_tree(rollouts, env_id="e", level=None, group_size=12, info={}, task_id="t")
    tree.validate(vocab_size=260)
    return tree


@pytest.mark.parametrize("kind", SAMPLINGS)
@pytest.mark.parametrize("advantage", ["group", "vtrace"])
def test_both_sides_say_the_same_of_what_was_sampled_under_a_mask(
    kind: str, advantage: str, folder: Path
) -> None:
    if "json_schema" in SAMPLINGS[kind]:
        pytest.importorskip("llguidance")
    tree = tree_of(sampled(folder, **SAMPLINGS[kind]))
    assert tree.num_masks > 0
    loss = "vtrace_pg" if advantage == "vtrace" else "ppo_clip"
    objective = ObjectiveConfig(advantage=advantage, loss=loss, entropy_coef=0.01)  # type: ignore[arg-type]
    learner = Learner(LearnerConfig(threads=1, objective=objective), folder, dtype=torch.float32)
    (recomputed,) = recompute_logprobs(learner.model, [tree])
    np.testing.assert_allclose(recomputed, tree.behavior_logprobs, atol=2e-5)
    report = learner.step([tree], expect_agreement=True)
    assert report.applied
    assert report.metrics["mismatch_kl/fresh_fraction"] == 1
    assert report.metrics["mismatch_kl/max"] < 1e-9
    # Of the distributions under the masks, whatever the whole vocabulary would have.
    trained = np.concatenate([tree.entropies[tree.node_tokens(int(n))] for n in np.flatnonzero(tree.sampled)])
    assert report.metrics["entropy/mean"] == pytest.approx(trained.mean(), abs=1e-5)


def test_without_their_masks_the_sides_would_be_far_apart(folder: Path) -> None:
    tree = tree_of(sampled(folder, top_p=0.7))
    assert tree.num_masks == 0
    learner = Learner(LearnerConfig(threads=1), folder, dtype=torch.float32)
    assert learner.step([tree]).metrics["mismatch_kl/mean"] > 1e-3
