"""Model folders with one peculiarity each: regressions of checking, serving and training them."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.cases.commands import INPUTS, ONE_ENV, run_of, settings, steps_of, trieline
from tests.cases.model_folders import make_model
from trieline.actors.chat import ChatRenderer


def test_15_model_missing_weights(tmp_path: Path) -> None:
    make_model("compiled", tmp_path / "m")
    for command in (
        ["check", "model", "m"],
        ["sft", str(INPUTS / "12_sft_remainder.jsonl"), *settings(model__path="m")],
    ):
        ran = trieline(*command, cwd=tmp_path).expect(2)
        assert "they lack 21 tensors (lm_head.weight, model.embed_tokens.weight, " in ran.said
        assert "and have 20 unknown ones (_orig_mod.model.embed_tokens.weight, " in ran.said


def test_17_model_other_head(tmp_path: Path) -> None:
    make_model("other_head", tmp_path / "m")
    chosen = settings(envs__0__id="trieline/Arithmetic-v0", model__path="m")
    run = run_of(trieline("train", "--config", str(ONE_ENV), *chosen, cwd=tmp_path).expect(0))
    assert len(steps_of(run)) == 2
    # In float32 the server and the learner differ by rounding alone: both have the file's head.
    (probe,) = [r for r in run.read_metrics() if "probe/logprob_max_abs" in r and r["step"] == 0]
    assert probe["probe/logprob_max_abs"] < 1e-4


def test_18_model_added_token(tmp_path: Path) -> None:
    make_model("added_token", tmp_path / "m")
    for command in (
        ["check", "model", "m"],
        ["sft", str(INPUTS / "18_model_added_token.jsonl"), *settings(model__path="m")],
    ):
        ran = trieline(*command, cwd=tmp_path).expect(2)
        assert "token '<think>' has id 260, the model has 260 rows" in ran.said


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("pointer", "is a Git LFS pointer, not the file itself: run git lfs pull there"),
        ("cut", "is cut off or no safetensors file"),
    ],
)
def test_19_model_pointer(kind: str, said: str, tmp_path: Path) -> None:
    folder = make_model(kind, tmp_path / "m")
    ran = trieline("check", "model", "m", cwd=tmp_path).expect(2)
    assert f"{folder / 'model.safetensors'} {said}" in ran.err
    assert ran.err.count("\n") == 1


def test_20_model_float32_rotary(tmp_path: Path) -> None:
    make_model("float32_rotary", tmp_path / "m")
    ran = trieline("check", "model", "m", cwd=tmp_path).expect(0)
    assert "exact: packed tries train this model as separate sequences do" in ran.said


def test_33_rl_special_thinking(tmp_path: Path) -> None:
    folder = make_model("special_think", tmp_path / "m")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    sampled = tokenizer.encode("[THINK]hm[/THINK]42<|im_end|>", add_special_tokens=False).ids
    assert len(sampled) == 7
    read = ChatRenderer(folder, system_prompt="").decode(np.array(sampled, np.int32))
    assert read == "[THINK]hm[/THINK]42"
