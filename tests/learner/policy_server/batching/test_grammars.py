"""What is sampled under a grammar, and what of top-p and top-k is told."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.learner.policy_server.cpu.tiny import drain, generate, plain_logprobs
from tests.trees import allowed_by
from trieline.common.arrays import Int32
from trieline.learner.model_folder.tiny_model import save_tiny_model
from trieline.learner.policy_server.batching import completion_masks
from trieline.learner.policy_server.batching.grammars import Grammars
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.cpu.cpu_engine import CpuEngine
from trieline.learner.policy_server.decoders.choose_decoder import load_decoder
from trieline.learner.policy_server.errors import InvalidRequestError
from trieline.wire.messages import Completion, GenerateRequest, Sampling

pytest.importorskip("llguidance")

VOCAB = 260
END = 258
"""The end of turn of the built-in tiny model, in which every byte is a token."""
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 9}, "n": {"type": "integer", "maximum": 999}},
        "required": ["city", "n"],
        "additionalProperties": False,
        "x-guidance": {"whitespace_flexible": False},
    }
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    save_tiny_model(path)
    return path


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[CpuEngine]:
    grammars = Grammars(folder / "tokenizer.json", VOCAB)
    engine = CpuEngine(load_decoder(folder, torch.float32), PolicyServerConfig(), grammars=grammars)
    yield engine
    engine.close()


def ask(number: int, text: str = "hello", **sampling: Any) -> GenerateRequest:
    settings: dict[str, Any] = {"max_tokens": 60, "stop_ids": (END,), "seed": number} | sampling
    prompt = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    return GenerateRequest(request_id=number, prompt=prompt, sampling=Sampling(**settings))


def text_of(completion: Completion) -> str:
    return bytes(token for token in completion.token_ids.tolist() if token < 256).decode()


def masks_of(completion: Completion) -> list[Int32 | None]:
    offsets = completion.mask_offsets.tolist()
    return [
        None if m < 0 else completion.mask_runs[2 * offsets[m] : 2 * offsets[m + 1]]
        for m in completion.mask_index.tolist()
    ]


def expect_under_masks(folder: Path, prompt: Int32, completion: Completion, temperature: float = 1.0) -> None:
    """The figures are those of a plain forward over the tokens that the told masks allow."""
    logprobs = plain_logprobs(folder, np.concatenate([prompt, completion.token_ids]))[len(prompt) - 1 : -1]
    for t, runs in enumerate(masks_of(completion)):
        row = logprobs[t].double() / temperature
        if runs is not None:
            row[torch.from_numpy(~allowed_by(runs, VOCAB))] = -torch.inf
        row = torch.log_softmax(row, -1)
        entropy = -(row.exp() * row)[row > -torch.inf].sum()
        assert completion.logprobs[t] == pytest.approx(float(row[completion.token_ids[t]]), abs=1e-4)
        assert completion.entropies[t] == pytest.approx(float(entropy), abs=1e-4)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7}, {"temperature": 0.0}, {"top_p": 0.6}])
def test_what_follows_a_schema_parses_and_has_the_figures_of_its_masks(
    sampling: dict[str, Any], engine: CpuEngine, folder: Path
) -> None:
    requests = [ask(i, json_schema=SCHEMA, **sampling) for i in range(6)]
    for one, completion in zip(requests, generate(engine, *requests), strict=True):
        assert completion.finish_reason == "stop"
        assert completion.token_ids[-1] == END
        value = json.loads(text_of(completion))
        assert set(value) == {"city", "n"}
        assert isinstance(value["n"], int)
        expect_under_masks(folder, one.prompt, completion, sampling.get("temperature") or 1.0)
        # The first brace is forced: it says nothing.
        assert (completion.logprobs[0], completion.entropies[0]) == (0, 0)


def test_a_grammar_leaves_the_others_alone(engine: CpuEngine, folder: Path) -> None:
    plain = [ask(i) for i in range(4)]
    alone = generate(engine, *plain)
    together = generate(engine, *plain, *(ask(4 + i, json_schema=SCHEMA) for i in range(4)))
    for a, b in zip(alone, together, strict=False):
        assert a.token_ids.tolist() == b.token_ids.tolist()
        assert len(b.mask_index) == 0
    again = generate(engine, ask(5, json_schema=SCHEMA))[0]
    assert again.token_ids.tolist() == together[5].token_ids.tolist()


def test_a_turn_ends_where_the_grammar_is_fulfilled_and_nowhere_else(engine: CpuEngine) -> None:
    lark = 'start: "a" ("b" "c"){0,3}\n'
    for completion in generate(engine, *(ask(i, lark=lark) for i in range(20))):
        assert text_of(completion) in {"a" + "bc" * n for n in range(4)}
        assert completion.finish_reason == "stop"
    (cut,) = generate(engine, ask(0, lark='start: "abc"', max_tokens=2))
    assert (text_of(cut), cut.finish_reason) == ("ab", "length")


def test_a_mask_that_allows_everything_is_none(engine: CpuEngine) -> None:
    (completion,) = generate(
        engine, ask(0, lark="start: /(.|\\n)*/", max_tokens=5, stop_ids=(END, 256, 257, 259))
    )
    # Not even here: half a character can't be followed by any byte.
    assert len(completion.mask_index) == 5
    (whole,) = generate(engine, ask(0, top_k=VOCAB, tell_masks=True, max_tokens=5))
    assert len(whole.mask_index) == 0


@pytest.mark.parametrize(
    "cut", [{"top_p": 0.5}, {"top_k": 7}, {"top_p": 0.9, "top_k": 100, "temperature": 0.8}]
)
def test_top_p_and_top_k_are_told_where_that_is_asked_for(
    cut: dict[str, Any], engine: CpuEngine, folder: Path
) -> None:
    told = ask(1, max_tokens=12, tell_masks=True, **cut)
    (completion,) = generate(engine, told)
    (silent,) = generate(engine, ask(1, max_tokens=12, **cut))
    assert silent.token_ids.tolist() == completion.token_ids.tolist()
    assert len(silent.mask_index) == 0
    expect_under_masks(folder, told.prompt, completion, cut.get("temperature", 1.0))
    sizes = [allowed_by(runs, VOCAB).sum() for runs in masks_of(completion) if runs is not None]
    assert len(sizes) == 12
    assert max(sizes) <= cut.get("top_k", VOCAB - 1)


@pytest.mark.parametrize(
    ("sampling", "complaint"),
    [
        ({"lark": "start: foo"}, "llguidance refuses: .*unknown name"),
        ({"lark": 'begin: "a"'}, "no start rule"),
        ({"json_schema": "{nope"}, "json_schema to be JSON"),
        ({"json_schema": "[" * 100_000}, "json_schema to be JSON"),
        ({"json_schema": "3"}, "an object, true or false, got int"),
        ({"json_schema": '{"type": "strange"}'}, "llguidance refuses"),
        ({"json_schema": '{"$ref": "file:///etc/passwd"}'}, "llguidance refuses"),
        ({"json_schema": SCHEMA, "lark": 'start: "a"'}, "got both"),
        ({"json_schema": SCHEMA, "stop_ids": ()}, "expected stop_ids"),
        # What llguidance itself would die of, or work on for minutes.
        (
            {"lark": "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(15_000)) + 'r15000: "a"'},
            "takes more",
        ),
        ({"lark": "start: /" + "a?" * 60_000 + "/"}, "takes more"),
    ],
)
def test_what_is_no_grammar_is_refused(sampling: dict[str, Any], complaint: str, engine: CpuEngine) -> None:
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match=complaint):
            engine.check(ask(0, **sampling))
    engine.check(ask(0, json_schema=SCHEMA))


def test_a_grammar_that_comes_to_nothing_is_refused_alone(engine: CpuEngine) -> None:
    # The newline that has to come next would end the turn.
    stuck = ask(1, lark='start: "a\\nb"', stop_ids=(10,))
    engine.check(stuck)
    engine.submit(b"peer", stuck)
    engine.submit(b"peer", ask(2, max_tokens=5))
    assert set(drain(engine)) == {2}
    (refused,) = engine.take_refused()
    ticket, reason = refused.ticket, refused.reason
    assert ticket == (b"peer", 1)
    assert "none can come next" in reason
    assert engine.take_refused() == []
    assert engine.running == 0


def test_masks_beyond_what_can_be_sent_are_refused(
    engine: CpuEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion_masks, "MAX_BYTES", 500)
    engine.submit(b"peer", ask(1, top_p=0.9, tell_masks=True))
    assert drain(engine) == {}
    (refused,) = engine.take_refused()
    reason = refused.reason
    assert "expected masks of at most 500 bytes" in reason


def test_without_a_tokenizer_there_are_no_grammars(folder: Path) -> None:
    engine = CpuEngine(load_decoder(folder, torch.float32), PolicyServerConfig())
    with pytest.raises(InvalidRequestError, match=r"no tokenizer\.json"):
        engine.check(ask(0, lark='start: "a"'))


def test_a_trial_that_is_gone_is_started_anew(engine: CpuEngine) -> None:
    engine.check(ask(0, lark='start: "x"'))
    assert engine._grammars is not None
    engine._grammars.close()
    engine.check(ask(0, lark='start: "y"'))
