"""What a real vLLM answered, read as its answers are."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from tests.learner.policy_server.foreign import conftest
from tests.learner.policy_server.foreign.asking import completed, give, refused
from tests.learner.policy_server.foreign.fake_engine import FakeEngine
from trieline.learner.policy_server.errors import EngineError
from trieline.learner.policy_server.foreign.engine import ForeignEngine
from trieline.wire.messages import Completion

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "recorded" / "vllm_0_32.json").read_text())


@pytest.fixture
def replay(
    fake: FakeEngine, connect: Callable[..., ForeignEngine], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Completion]:
    monkeypatch.setattr(conftest, "VOCAB", 49_152)

    def replayed(name: str) -> Completion:
        async def answer(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
            reply = json.loads(json.dumps(RECORDED[name]["reply"]))
            # The weights had a name that somebody else gave them.
            reply["choices"][0]["weight_versions"][0]["version"] = fake.label
            return web.json_response(reply)

        engine = connect(fake)
        fake.answer = answer
        sampling = {key: value for key, value in RECORDED[name]["sampling"].items() if key != "logprobs"}
        return completed(engine, tell_masks="top_k" in sampling, **sampling)

    return replayed


def test_tokens_with_the_largest_probabilities(replay: Callable[[str], Completion]) -> None:
    completion = replay("plain")
    assert completion.token_ids.tolist() == [2249, 282, 7164]
    np.testing.assert_allclose(completion.logprobs, [-6.8178225, -0.5894907, -5.944103], atol=1e-6)
    assert completion.finish_reason == "length"
    # Two of the largest are known at each place: the third told is the sampled one, or the third largest.
    assert (completion.entropies > 0.5).all()
    assert (completion.entropies < np.log(49_152)).all()


def test_a_stop_string_stays_in_the_completion(replay: Callable[[str], Completion]) -> None:
    completion = replay("stop")
    assert (completion.finish_reason, completion.stop, len(completion.token_ids)) == ("stop", " a", 6)
    assert np.isnan(completion.entropies).all(), "one probability says nothing of the others"


def test_what_was_cut_off_has_no_probability(replay: Callable[[str], Completion]) -> None:
    completion = replay("cut")
    assert completion.mask_runs.tolist() == [89, 90, 288, 289, 260, 261, 511, 512, 2591, 2592]
    p = np.exp(-0.39846932888031006)
    np.testing.assert_allclose(completion.entropies[0], -p * np.log(p) - (1 - p) * np.log(1 - p), atol=1e-5)


def test_its_refusals_are_passed_on(
    fake: FakeEngine, connect: Callable[..., ForeignEngine], tmp_path: Path
) -> None:
    engine = connect(fake)
    fake.broken["/inference/v1/generate"] = 400, json.dumps(RECORDED["refused"]["reply"])
    refusal = refused(engine)
    assert refusal.kind == "invalid"
    assert "Token id 99999999 is out of vocabulary" in refusal.reason
    fake.broken["/collective_rpc"] = 500, json.dumps(RECORDED["reload_failed"]["reply"])
    with pytest.raises(EngineError, match="Call to collective_rpc method failed"):
        give(engine, tmp_path / "model" / "model.safetensors", 1)
