"""An engine of others behind the contract: what it is asked, what is made of its answers, how it fails."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aiohttp import web
from safetensors.torch import save_file

from tests.learner.policy_server.foreign.asking import (
    PEER,
    answers,
    completed,
    give,
    refused,
    request,
    submit,
)
from tests.learner.policy_server.foreign.fake_engine import (
    DEADLINE_S,
    SGLANG_INFO,
    TOPS,
    FakeEngine,
    sglang_reply,
    vllm_reply,
)
from trieline.learner.errors import CheckpointError
from trieline.learner.policy_server.engine import Refused
from trieline.learner.policy_server.errors import EngineError, InvalidRequestError
from trieline.learner.policy_server.foreign.engine import ForeignEngine
from trieline.learner.policy_server.foreign.http_link import HttpLink
from trieline.wire.messages import Completion

Connect = Callable[..., ForeignEngine]


def weights_file(path: Path, **tensors: torch.Tensor) -> Path:
    save_file(tensors or {"a.weight": torch.ones(2, 3), "b.weight": torch.ones(4)}, path)
    return path


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("backend", ["vllm", "sglang"])
def test_what_is_asked_and_what_comes_back(fake: FakeEngine, connect: Connect, backend: str) -> None:
    if backend == "sglang":
        fake.info = SGLANG_INFO
    engine = connect(fake, backend)
    assert (engine.max_context, engine.vocab_size, engine.dtype) == (128, 300, "float32")
    assert (engine.name, engine.entropies) == (backend, "estimated")
    completion = completed(engine, max_tokens=4, temperature=0.5, stop_ids=(2,), seed=9, stop=("end",))
    assert completion.token_ids.tolist() == [7] * 4
    np.testing.assert_allclose(completion.logprobs, np.log([0.5] * 4), atol=1e-6)
    # One half and two quarters, and nothing else: told whole, so the estimate is exact.
    np.testing.assert_allclose(completion.entropies, [1.5 * np.log(2)] * 4, atol=1e-5)
    assert completion.entropies_estimated
    assert completion.policy_versions.tolist() == [0] * 4
    assert (completion.finish_reason, completion.stop) == ("length", "")
    assert engine.tokens_generated == 4
    path, body = fake.calls[-1]
    settings = body["sampling_params"]
    if backend == "vllm":
        assert (path, body["token_ids"]) == ("/inference/v1/generate", [5, 6, 7])
        assert (settings["max_tokens"], settings["seed"], settings["logprobs"]) == (4, 9, 20)
        assert settings["include_stop_str_in_output"] is True
    else:
        assert (path, body["input_ids"]) == ("/generate", [5, 6, 7])
        assert (settings["max_new_tokens"], settings["sampling_seed"], settings["top_k"]) == (4, 9, -1)
        assert (body["top_logprobs_num"], settings["no_stop_trim"]) == (20, True)
    assert (settings["temperature"], settings["stop"], settings["stop_token_ids"]) == (0.5, ["end"], [2])
    assert settings["ignore_eos"] is True


def test_weights_change_while_requests_run(fake: FakeEngine, connect: Connect, tmp_path: Path) -> None:
    engine = connect(fake)
    fake.holds = True
    submit(engine, request(1, max_tokens=2))
    wait_for(lambda: fake.held)
    before = len(fake.calls)
    give(engine, weights_file(tmp_path / "policy.safetensors"), 3)
    assert engine.policy_version == 3
    assert [path for path, _ in fake.calls[before:]] == [
        "/pause?mode=keep",
        "/update_weight_version",
        "/collective_rpc",
        "/reset_prefix_cache?reset_running_requests=true",
        "/update_weight_version",
        "/resume",
    ]
    assert (fake.weights[-1] / "model.safetensors").samefile(tmp_path / "policy.safetensors")

    async def both_versions(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        reply = vllm_reply(fake.label, 2)
        old = fake.label.rpartition("-")[0] + "-0"
        reply["choices"][0]["weight_versions"] = [
            {"version": old, "start": 0, "end": 1},
            {"version": fake.label, "start": 1, "end": 2},
        ]
        return web.json_response(reply)

    fake.answer = both_versions
    fake.release()
    (answer,) = answers(engine).values()
    assert isinstance(answer, Completion)
    assert answer.policy_versions.tolist() == [0, 3]


def test_requests_are_asked_again_where_none_is_kept(
    fake: FakeEngine, connect: Connect, tmp_path: Path
) -> None:
    fake.info = SGLANG_INFO
    engine = connect(fake, "sglang")
    fake.holds = True
    submit(engine, request(1), request(2))
    wait_for(lambda: len(fake.held) == 2)
    give(engine, weights_file(tmp_path / "policy.safetensors"), 1)
    wait_for(lambda: len(fake.held) == 4)
    fake.release()
    found = answers(engine, 2)
    assert all(
        isinstance(one, Completion) and set(one.policy_versions.tolist()) == {1} for one in found.values()
    )
    body = next(
        body for path, body in fake.calls if path == "/update_weights_from_disk" and "-1" in str(body)
    )
    assert body["abort_all_requests"] is True


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ({"a.weight": torch.ones(2, 3)}, "lacks tensors: b.weight"),
        (
            {"a.weight": torch.ones(2, 3), "b.weight": torch.ones(4), "c": torch.ones(1)},
            "has unknown tensors: c",
        ),
        ({"a.weight": torch.ones(3, 2), "b.weight": torch.ones(4)}, "has misshaped tensors: a.weight"),
    ],
)
def test_weights_of_another_model_never_reach_it(
    fake: FakeEngine, connect: Connect, tmp_path: Path, tensors: dict[str, torch.Tensor], expected: str
) -> None:
    engine = connect(fake)
    before = len(fake.weights)
    with pytest.raises(CheckpointError, match=expected):
        give(engine, weights_file(tmp_path / "policy.safetensors", **tensors), 1)
    assert (engine.policy_version, len(fake.weights)) == (0, before)
    assert completed(engine, max_tokens=1).policy_versions.tolist() == [0]
    # Nor does it get them when it comes back from being away.
    fake.label = "lost"
    assert "weights 'lost'" in refused(engine).reason
    wait_for(lambda: fake.label.endswith("-0"))


def test_weights_that_were_read_in_part_are_served_to_nobody(
    fake: FakeEngine, connect: Connect, tmp_path: Path
) -> None:
    engine = connect(fake)
    fake.broken["/collective_rpc"] = 500, "a tensor is missing"
    with pytest.raises(EngineError, match=r"vLLM at http://127.*status 500: a tensor is missing"):
        give(engine, weights_file(tmp_path / "policy.safetensors"), 1)
    # The first one was at its start.
    assert fake.after("/collective_rpc", 2) == "/resume", "what waits there would wait for ever"
    assert "not read to their end" in fake.label
    assert "a tensor is missing" in refused(engine).reason
    del fake.broken["/collective_rpc"]
    # It is looked at until it is back, and given the newest weights again.
    wait_for(lambda: fake.label.endswith("-1"))
    wait_for(lambda: fake.paths()[-1] == "/inference/v1/generate")
    time.sleep(0.2)
    assert completed(engine, max_tokens=2).policy_versions.tolist() == [1, 1]


def test_an_engine_whose_word_on_its_cache_is_none_goes_on(
    fake: FakeEngine, connect: Connect, tmp_path: Path
) -> None:
    engine = connect(fake)
    fake.broken["/reset_prefix_cache"] = 200, "done"
    with pytest.raises(EngineError, match=r"answered /reset_prefix_cache.* with what was not expected"):
        give(engine, weights_file(tmp_path / "policy.safetensors"), 1)
    asked = "/reset_prefix_cache?reset_running_requests=true"
    assert fake.after(asked, 2) == "/resume", "what waits there would wait for ever"


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[FakeEngine], dict[str, Any]]:
    """A reply of vLLM with a change to its choice."""

    def reply(fake: FakeEngine) -> dict[str, Any]:
        # Its rows are the same ones: a change to one is to change no other.
        whole: dict[str, Any] = json.loads(json.dumps(vllm_reply(fake.label, 2)))
        change(whole["choices"][0])
        return whole

    return reply


def content(choice: dict[str, Any]) -> Any:
    return choice["logprobs"]["content"]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (lambda _: {}, "missing required field `choices`"),
        (lambda _: {"choices": []}, "length >= 1"),
        (lambda _: [1], "Expected `object`"),
        (changed(lambda c: c.update(token_ids="12")), "Expected `array | null`, got `str`"),
        (changed(lambda c: c.update(token_ids=[7, 7.5])), "Expected `int`, got `float`"),
        (changed(lambda c: c.update(token_ids=[7, 300])), "log-probabilities of the tokens"),
        (changed(lambda c: c.update(token_ids=[], logprobs={"content": []})), "1 to 64 tokens"),
        (changed(lambda c: c.update(logprobs=None)), "token ids with log-probabilities"),
        (changed(lambda c: content(c)[0].update(logprob="NaN")), "Expected `float`"),
        (changed(lambda c: content(c)[0].update(logprob=-9999.0)), "log-probabilities of sampled tokens"),
        (changed(lambda c: content(c)[0].update(logprob=0.5)), "log-probabilities of sampled tokens"),
        (changed(lambda c: content(c).append(content(c)[0])), "log-probabilities of the tokens"),
        (changed(lambda c: c.update(finish_reason="abort")), "an end by 'abort'"),
        (changed(lambda c: c.update(stop_reason="STOP")), r"expected a completion that \(\) ended"),
        (changed(lambda c: c.update(weight_versions=None)), "version of each of 2 tokens, got 0"),
        (
            changed(lambda c: c["weight_versions"][0].update(end=1 << 40)),
            "version of each of 2 tokens, got 0",
        ),
        (changed(lambda c: c["weight_versions"][0].update(start=1)), "version of each of 2 tokens, got 0"),
        (
            changed(lambda c: c["weight_versions"][0].update(version="other-0")),
            "weights 'other-0', which were not given to it from here",
        ),
    ],
)
def test_answers_that_are_none(
    fake: FakeEngine, connect: Connect, reply: Callable[[FakeEngine], Any], expected: str
) -> None:
    engine = connect(fake)

    async def answer(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(reply(fake))

    fake.answer = answer
    refusal = refused(engine)
    assert refusal.kind == "failed"
    assert refusal.reason.startswith(f"vLLM at {fake.url}")
    with pytest.raises(AssertionError, match=expected):
        raise AssertionError(refusal.reason)


def raw(data: bytes, **response: Any) -> Callable[[web.Request, Any], Awaitable[web.StreamResponse]]:
    async def answer(_: web.Request, body: Any) -> web.StreamResponse:
        return web.Response(body=data, **response)

    return answer


async def half(request: web.Request, body: Any) -> web.StreamResponse:
    """Half an answer, and the connection is closed."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"choices": [')
    assert request.transport is not None
    request.transport.close()
    return response


async def never(request: web.Request, body: Any) -> web.StreamResponse:
    await asyncio.sleep(DEADLINE_S)
    return web.Response()


@pytest.mark.parametrize(
    ("answer", "kind", "expected"),
    [
        (raw(b'{"choices": NaN}'), "failed", "with what was not expected"),
        (raw(b"\xff\xfe"), "failed", "with what was not expected"),
        (raw(b""), "failed", "with what was not expected"),
        (raw(b"[" * 90_000), "failed", "with what was not expected"),
        (raw(b"x" * 100_001), "failed", "with more than 100000 bytes"),
        (raw(b"Traceback", status=500), "failed", "status 500: Traceback"),
        (raw(b"", status=307, headers={"Location": "http://127.0.0.1:1/"}), "failed", "status 307"),
        (raw(b"prompt too long\x1b[31m", status=400), "invalid", r"prompt too long\x1b"),
        (half, "failed", "is not to be reached"),
        (never, "failed", "did not answer /inference/v1/generate within 1 s"),
    ],
)
def test_servers_that_fail(fake: FakeEngine, connect: Connect, answer: Any, kind: str, expected: str) -> None:
    engine = connect(fake, request_timeout_s=1.0)
    fake.answer = answer
    refusal = refused(engine)
    assert (refusal.kind, expected in refusal.reason) == (kind, True), refusal.reason
    assert fake.url in refusal.reason
    assert refusal.reason.isprintable()


def test_no_more_is_asked_at_once_than_it_has_rows(fake: FakeEngine, connect: Connect) -> None:
    engine = connect(fake)
    asked, most = 0, 0

    async def answer(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        nonlocal asked, most
        asked += 1
        most = max(most, asked)
        await asyncio.sleep(0.02)
        asked -= 1
        return web.json_response(vllm_reply(fake.label, 1))

    fake.answer = answer
    submit(engine, *(request(number, max_tokens=1) for number in range(7)))
    assert sorted(answers(engine, 7)) == list(range(7))
    assert most == 2


def test_a_request_that_takes_too_long_takes_no_engine_away(fake: FakeEngine, connect: Connect) -> None:
    engine = connect(fake, request_timeout_s=1.0)

    async def answer(asked: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body["sampling_params"]["max_tokens"] == 50:
            return await never(asked, body)
        return web.json_response(vllm_reply(fake.label, body["sampling_params"]["max_tokens"]))

    fake.answer = answer
    assert "within 1 s" in refused(engine, max_tokens=50).reason
    assert len(completed(engine, max_tokens=3).token_ids) == 3
    assert fake.paths().count("/pause?mode=keep") == 1, "it was never taken for one that is away"


def test_one_that_hangs_is_asked_nothing_more(fake: FakeEngine, connect: Connect) -> None:
    engine = connect(fake, request_timeout_s=0.5)
    fake.holds = True
    submit(engine, *(request(number, max_tokens=9) for number in range(9)))
    found = answers(engine, 9)
    assert all(isinstance(one, Refused) and "within 0.5 s" in one.reason for one in found.values())
    # The others were single tokens, to see whether it gives one.
    assert [body["sampling_params"]["max_tokens"] for body in fake.held].count(9) == 2


def test_one_that_is_gone_is_named_and_taken_back(fake: FakeEngine, connect: Connect, tmp_path: Path) -> None:
    engine = connect(fake)
    give(engine, weights_file(tmp_path / "policy.safetensors"), 5)
    port = fake.port
    fake.__exit__()
    try:
        assert f"http://127.0.0.1:{port} is not to be reached" in refused(engine).reason
        assert "is not to be reached" in refused(engine).reason, "nothing is asked of it meanwhile"
    finally:
        again = FakeEngine(port=port)
        again.__enter__()
    try:
        wait_for(lambda: again.paths()[-1:] == ["/inference/v1/generate"])
        time.sleep(0.2)
        # The one that was started anew has the newest weights again.
        assert completed(engine, max_tokens=1).policy_versions.tolist() == [5]
    finally:
        again.__exit__()


def test_what_nobody_waits_for_is_taken_back(fake: FakeEngine, connect: Connect) -> None:
    engine = connect(fake)
    fake.holds = True
    submit(engine, request(1), request(2), request(3))
    wait_for(lambda: len(fake.held) == 2)
    assert (engine.running, engine.waiting) == (2, 1)
    engine.cancel((PEER, 1))
    assert engine.drain() == [(PEER, 2), (PEER, 3)]
    assert (engine.running, engine.waiting) == (0, 0)
    fake.release()
    assert set(answers_of_next(engine)) == {4}


def answers_of_next(engine: ForeignEngine) -> dict[int, Completion | Refused]:
    submit(engine, request(4))
    return answers(engine)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({"max_tokens": 126}, r"at most 128 tokens, got 3 \+ 126"),
        ({"temperature": float("inf")}, "a finite temperature"),
        ({"lark": 'start: "a"', "stop_ids": (2,)}, "expected no grammar with vLLM"),
        ({"json_schema": "{}", "stop_ids": (2,)}, "expected no grammar with vLLM"),
        ({"top_p": 0.9, "tell_masks": True}, r"expected top_k of 1 to 12 .* where masks are asked for"),
    ],
)
def test_what_it_can_not_do_is_refused_by_name(
    fake: FakeEngine, connect: Connect, sampling: dict[str, Any], expected: str
) -> None:
    engine = connect(fake)
    before = len(fake.calls)
    with pytest.raises(InvalidRequestError, match=expected):
        engine.check(request(**sampling))
    assert len(fake.calls) == before


def test_masks_are_read_off_the_probabilities(fake: FakeEngine, connect: Connect) -> None:
    completion = completed(connect(fake), max_tokens=2, top_k=3, tell_masks=True)
    assert completion.mask_index.tolist() == [0, 0]
    assert completion.mask_runs.tolist() == [3, 4, 7, 8, 9, 10]
    assert fake.calls[-1][1]["sampling_params"]["logprobs"] == 20


@pytest.mark.parametrize("backend", ["vllm", "sglang"])
def test_greedy_draws_leave_nothing_out_and_have_no_masks(
    fake: FakeEngine, connect: Connect, backend: str
) -> None:
    if backend == "sglang":
        fake.info = SGLANG_INFO

    async def answer(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        # Of the largest ones two alone are told: a quarter is missing.
        if backend == "sglang":
            assert "return_sampling_mask" not in body
            reply = sglang_reply(fake.label, 2)
            reply["meta_info"]["output_top_logprobs"] = [[[p, t, None] for t, p in TOPS[:2]]] * 2
        else:
            reply = vllm_reply(fake.label, 2)
            for token in content(reply["choices"][0]):
                token["top_logprobs"] = token["top_logprobs"][:2]
        return web.json_response(reply)

    engine = connect(fake, backend)
    fake.answer = answer
    for cut in ({"top_k": 3}, {"top_p": 0.9}):
        completion = completed(engine, max_tokens=2, temperature=0.0, tell_masks=True, **cut)
        assert completion.token_ids.tolist() == [7, 7]
        assert len(completion.mask_runs) == 0


def test_sglang_tells_what_was_left(fake: FakeEngine, connect: Connect) -> None:
    fake.info = SGLANG_INFO

    async def answer(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        assert (body["return_sampling_mask"], body["sampling_logprobs_mode"]) == (True, "support")
        reply = sglang_reply(fake.label, 2)
        reply["meta_info"]["output_token_sampling_mask"] = [[7], [9, 7]]
        reply["meta_info"]["output_token_sampling_logprobs"] = [[0.0], [-1.0986122887, -0.4054651081]]
        return web.json_response(reply)

    engine = connect(fake, "sglang")
    fake.answer = answer
    completion = completed(engine, max_tokens=2, top_p=0.7, tell_masks=True)
    # Among what was left, not among all: one, and two thirds.
    np.testing.assert_allclose(completion.logprobs, [0.0, np.log(2 / 3)], atol=1e-6)
    np.testing.assert_allclose(completion.entropies, [0.0, 0.6365142], atol=1e-5)
    assert completion.mask_runs.tolist() == [7, 8, 7, 8, 9, 10]
    fake.answer = None
    assert "expected what top_k and top_p left" in refused(engine, top_k=5).reason


def test_sglang_without_masks_takes_no_cut(fake: FakeEngine, connect: Connect) -> None:
    fake.info = SGLANG_INFO | {"sampling_mask_max_tokens": None}
    engine = connect(fake, "sglang")
    with pytest.raises(InvalidRequestError, match="without --sampling-mask-max-tokens, got 5 and 1"):
        engine.check(request(top_k=5))
    engine.check(request(top_k=5, temperature=0.0))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"logprobs_mode": "raw_logprobs"}, "expected --logprobs-mode processed_logprobs, got raw_logprobs"),
        ({"dtype": "torch.bfloat16"}, "expected --dtype float32, as model.dtype says, got bfloat16"),
        ({"max_model_len": "long"}, "Expected `int`, got `str`"),
    ],
)
def test_one_that_was_started_otherwise_is_refused(
    fake: FakeEngine, connect: Connect, settings: dict[str, Any], expected: str
) -> None:
    server = fake.info["vllm_config"]
    fake.info = {"vllm_config": server | {"model_config": server["model_config"] | settings}}
    with pytest.raises(EngineError, match=expected):
        connect(fake)


@pytest.mark.parametrize("status", [503, 400])
def test_one_that_does_not_come_up_is_named(fake: FakeEngine, connect: Connect, status: int) -> None:
    fake.broken["/health"] = status, "loading"
    said = rf"waited 0.5 s for an engine: vLLM at {fake.url}.*{status}: loading"
    with pytest.raises(EngineError, match=said):
        connect(fake, startup_timeout_s=0.5)


def test_one_that_hangs_at_its_start_is_given_up(fake: FakeEngine, connect: Connect) -> None:
    fake.hangs = {"/collective_rpc"}
    with pytest.raises(EngineError, match=rf"waited for vLLM at {fake.url} until SIGTERM"):
        connect(fake, gives_up=lambda: "SIGTERM" if "/collective_rpc" in fake.paths() else "")


def test_the_token_travels_with_every_call(fake: FakeEngine, connect: Connect) -> None:
    seen: list[str | None] = []

    async def answer(asked: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        seen.append(asked.headers.get("Authorization"))
        return web.json_response(vllm_reply(fake.label, 1))

    engine = connect(fake)
    fake.answer = answer
    completed(engine, max_tokens=1)
    assert seen == ["Bearer secret"]


def test_its_password_is_in_no_message() -> None:
    async def asked() -> str:
        link = HttpLink("vLLM", "http://ada:pw@127.0.0.1:1", timeout_s=5.0, max_bytes=100)
        try:
            return await link.is_there("/health", timeout_s=5.0)
        finally:
            await link.close()

    assert asyncio.run(asked()).startswith("vLLM at http://***@127.0.0.1:1 is not to be reached")


def test_a_cpu_is_given_no_seeds_and_no_tied_head(
    fake: FakeEngine, connect: Connect, model_folder: Path
) -> None:
    fake.info = {"vllm_config": fake.info["vllm_config"] | {"device_config": {"device": "cpu"}}}
    (model_folder / "config.json").write_text('{"tie_word_embeddings": true}')
    with pytest.raises(EngineError, match="keeps the old head of a model that ties it"):
        connect(fake)
    save_file({"lm_head.weight": torch.zeros(1)}, model_folder / "head.safetensors")
    (model_folder / "config.json").write_text('{"tie_word_embeddings": false}')
    completed(connect(fake), max_tokens=1, seed=5)
    assert "seed" not in fake.calls[-1][1]["sampling_params"]
