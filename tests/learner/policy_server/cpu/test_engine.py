import gc
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.learner.policy_server.cpu.tiny import (
    FAMILIES,
    VOCAB,
    drain,
    expect_plain,
    generate,
    random_prompt,
    request,
    save_model,
    tiny_engine,
)
from trieline.common.arrays import Int32
from trieline.learner.config import LoraConfig
from trieline.learner.errors import CheckpointError
from trieline.learner.keeping.weight_file import ADAPTER_KEY, write_weights
from trieline.learner.model.adapters import Adapters
from trieline.learner.policy_server.cpu.cpu_engine import CpuEngine
from trieline.learner.policy_server.cpu.rows import Rows
from trieline.learner.policy_server.errors import InvalidRequestError
from trieline.wire.messages import Completion


def _rows(engine: CpuEngine) -> Rows:
    assert isinstance(engine._places, Rows)
    return engine._places


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("other"), seed=1)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_and_entropies_are_those_of_a_plain_forward(
    family: str, fused: bool, tmp_path: Path
) -> None:
    folder = save_model(tmp_path, family)
    engine = tiny_engine(folder, fused=fused)
    prompts = [random_prompt(seed, 1 + 7 * seed) for seed in range(6)]
    requests = [request(i, prompt, max_tokens=9, seed=i) for i, prompt in enumerate(prompts)]
    for prompt, completion in zip(prompts, generate(engine, *requests), strict=True):
        assert completion.finish_reason == "length"
        expect_plain(folder, prompt, completion)


def test_requests_that_join_and_leave_get_what_they_get_alone(folder: Path) -> None:
    prompts = [random_prompt(seed, 3 + 5 * (seed % 7)) for seed in range(20)]
    requests = [
        request(i, prompt, max_tokens=2 + i % 9, seed=i, temperature=1.2) for i, prompt in enumerate(prompts)
    ]
    alone = [generate(tiny_engine(folder), one)[0] for one in requests]
    engine = tiny_engine(folder, max_rows=5, prefill_tokens=16)
    answers: dict[int, Completion] = {}
    for one in requests:
        engine.submit(b"peer", one)
        answers |= {finished.ticket[1]: finished.completion for finished in engine.step()}
        assert engine.running <= 5
    answers |= drain(engine)
    for number, expected in enumerate(alone):
        np.testing.assert_array_equal(answers[number].token_ids, expected.token_ids)
        np.testing.assert_allclose(answers[number].logprobs, expected.logprobs, atol=1e-4)
    assert engine.counters.generated == sum(len(one.token_ids) for one in alone)


def test_rollouts_of_one_prompt_read_it_once(folder: Path) -> None:
    engine = tiny_engine(folder)
    prompt = random_prompt(0, 60)
    completions = generate(engine, *(request(i, prompt, max_tokens=6, seed=i) for i in range(8)))
    assert engine.counters.prefilled == 60
    assert engine.counters.reused == 7 * 59
    assert len({tuple(one.token_ids.tolist()) for one in completions}) > 1
    for completion in completions:
        expect_plain(folder, prompt, completion)


@pytest.mark.parametrize("length", [64, 65])
def test_a_prompt_read_in_several_steps_is_shared(folder: Path, length: int) -> None:
    """Also where the last of them reads a single token."""
    engine = tiny_engine(folder, prefill_tokens=32)
    prompt = random_prompt(0, length)
    generate(engine, *(request(i, prompt, max_tokens=6, seed=i) for i in range(4)))
    assert engine.counters.reused == 3 * (length - 1)


@pytest.mark.parametrize("part", ["place", "read", "close_gaps"])
def test_requests_of_a_step_that_fails_are_all_given_back(
    folder: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tiny_engine(folder)
    answered: set[int] = set()
    for number in range(5):
        prompt = random_prompt(number % 2, 40)
        engine.submit(b"peer", request(number, prompt, max_tokens=2 + number, seed=number))
    calls = 0
    real = getattr(Rows, part)

    def fail_third(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise MemoryError
        return real(*arguments)

    monkeypatch.setattr(Rows, part, fail_third)
    try:
        while engine.busy:
            answered |= {finished.ticket[1] for finished in engine.step()}
        pytest.fail(f"{part} was called {calls} times")
    except MemoryError:
        pass
    given_back = [number for _, number in engine.drain()]
    assert sorted([*answered, *given_back]) == list(range(5))
    assert not engine.busy


def test_running_rollouts_share_the_place_of_their_prompt(folder: Path) -> None:
    engine = tiny_engine(folder)
    prompts = [random_prompt(0, 60)] * 5 + [random_prompt(1, 33)] * 3 + [random_prompt(2, 50)]
    for number, prompt in enumerate(prompts):
        engine.submit(b"peer", request(number, prompt, max_tokens=8, seed=number))
    for _ in range(4):
        engine.step()
    rows = _rows(engine)
    trunks = [rows.trunk(sequence) for sequence in rows]
    users = sorted((trunk.users, len(trunk.tokens)) for trunk in {id(t): t for t in trunks if t}.values())
    assert users == [(3, 32), (5, 59)]
    answers = drain(engine)
    for number, prompt in enumerate(prompts):
        expect_plain(folder, prompt, answers[number])


@pytest.mark.parametrize("seed", range(4))
def test_any_mix_of_requests_is_answered_as_if_each_were_alone(folder: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    engine = tiny_engine(
        folder, max_rows=6, kv_tokens=1500, prefix_tokens=int(rng.choice([0, 150, 2000])), prefill_tokens=32
    )
    roots = [random_prompt(root, int(rng.integers(1, 90))) for root in range(4)]
    prompts: list[Int32] = []
    answers: dict[int, Completion] = {}
    while len(prompts) < 40 or engine.busy:
        if len(prompts) < 40 and rng.random() < 0.4:
            for _ in range(int(rng.integers(1, 7))):
                # A prompt afresh, a prefix of one, or the next turn of an earlier request.
                root = roots[int(rng.integers(len(roots)))]
                kind = rng.integers(3)
                if kind == 1:
                    root = root[: rng.integers(1, len(root) + 1)]
                elif kind == 2 and answers:
                    earlier = int(rng.choice(list(answers)))
                    root = np.concatenate([prompts[earlier], answers[earlier].token_ids])
                extra = rng.integers(0, VOCAB, int(rng.integers(0, 12))).astype(np.int32)
                prompt = np.concatenate([root, extra])[-200:]
                number, length = len(prompts), int(rng.integers(1, 15))
                prompts.append(prompt)
                engine.submit(b"peer", request(number, prompt, max_tokens=length, seed=int(rng.integers(9))))
        answers |= {finished.ticket[1]: finished.completion for finished in engine.step()}
    for number, prompt in enumerate(prompts):
        expect_plain(folder, prompt, answers[number])
    assert all(_rows(engine).trunk(one) is None for one in _rows(engine))


def test_the_next_turn_reads_its_new_tokens_only(folder: Path) -> None:
    engine = tiny_engine(folder)
    prompt = random_prompt(1, 40)
    first = generate(engine, *(request(i, prompt, max_tokens=10, seed=i) for i in range(4)))
    before = engine.counters.prefilled
    turns = [np.concatenate([prompt, one.token_ids, random_prompt(2, 5)]) for one in first]
    second = generate(engine, *(request(10 + i, turn, max_tokens=5, seed=i) for i, turn in enumerate(turns)))
    # The last sampled token was never read, the five new ones neither.
    assert engine.counters.prefilled - before == 4 * 6
    for turn, completion in zip(turns, second, strict=True):
        expect_plain(folder, turn, completion)


def test_seeds_decide_and_repeat(folder: Path) -> None:
    prompt = random_prompt(3, 12)
    requests = [request(i, prompt, max_tokens=12, seed=seed) for i, seed in enumerate([5, 5, 6])]
    first, again, other = generate(tiny_engine(folder), *requests)
    np.testing.assert_array_equal(first.token_ids, again.token_ids)
    assert first.token_ids.tolist() != other.token_ids.tolist()


def test_a_stop_token_ends_the_completion_and_belongs_to_it(folder: Path) -> None:
    prompt = random_prompt(4, 10)
    (free,) = generate(tiny_engine(folder), request(0, prompt, max_tokens=20, seed=1))
    stop = int(free.token_ids[7])
    first = free.token_ids.tolist().index(stop)
    (stopped,) = generate(
        tiny_engine(folder), request(0, prompt, max_tokens=20, seed=1, stop_ids=(stop, 299))
    )
    assert stopped.finish_reason == "stop"
    np.testing.assert_array_equal(stopped.token_ids, free.token_ids[: first + 1])
    assert len(stopped.logprobs) == len(stopped.entropies) == len(stopped.policy_versions) == first + 1


def test_greedy_takes_the_most_likely(folder: Path) -> None:
    prompt = random_prompt(5, 10)
    (completion,) = generate(tiny_engine(folder), request(0, prompt, max_tokens=8, temperature=0.0))
    expect_plain(folder, prompt, completion)
    (other,) = generate(tiny_engine(folder), request(0, prompt, max_tokens=8, temperature=0.0, seed=9))
    np.testing.assert_array_equal(completion.token_ids, other.token_ids)


@pytest.mark.parametrize("fused", [True, False])
def test_weights_change_between_steps_and_no_request_is_lost(
    folder: Path, other_folder: Path, fused: bool
) -> None:
    engine = tiny_engine(folder, fused=fused, version=3)
    prompt = random_prompt(6, 30)
    engine.submit(b"peer", request(0, prompt, max_tokens=10, seed=0))
    for _ in range(4):
        assert not engine.step()
    engine.load(other_folder / "model.safetensors", 4)
    engine.submit(b"peer", request(1, prompt, max_tokens=10, seed=0))
    answers = drain(engine)
    assert answers[0].policy_versions.tolist() == [3] * 4 + [4] * 6
    assert answers[1].policy_versions.tolist() == [4] * 10
    # The new request reads its prompt with the new weights: nothing of the old ones is reused.
    assert engine.counters.reused == 0
    expect_plain(other_folder, prompt, answers[1])
    # Nor is what the old request left behind.
    turn = np.concatenate([prompt, answers[0].token_ids])
    (completion,) = generate(engine, request(2, turn, max_tokens=3))
    assert engine.counters.reused == len(prompt)
    expect_plain(other_folder, turn, completion)


def test_loaded_weights_outlive_their_file_and_precision_is_converted(
    folder: Path, other_folder: Path, tmp_path: Path
) -> None:
    halves = {
        name: tensor.to(torch.bfloat16)
        for name, tensor in load_file(other_folder / "model.safetensors").items()
    }
    copy = tmp_path / "copy.safetensors"
    save_file(halves, copy)
    engine = tiny_engine(folder)
    engine.load(copy, 1)
    copy.write_bytes(b"\0" * copy.stat().st_size)
    prompt = random_prompt(1, 8)
    (completion,) = generate(engine, request(0, prompt, max_tokens=5))
    expect_plain(other_folder, prompt, completion, tolerance=0.1)


def test_a_head_of_its_own_that_the_config_ties_is_served(folder: Path, tmp_path: Path) -> None:
    untied = tmp_path / "untied"
    shutil.copytree(folder, untied)
    tensors = load_file(folder / "model.safetensors")
    other_head = torch.randn_like(tensors["model.embed_tokens.weight"])
    with_head = tensors | {"lm_head.weight": other_head}
    save_file(with_head, untied / "model.safetensors", metadata={"format": "pt"})
    engine = tiny_engine(untied)
    prompt = random_prompt(1, 8)
    (completion,) = generate(engine, request(0, prompt, max_tokens=5))
    expect_plain(untied, prompt, completion)
    # And stays the learner's to change.
    engine.load(untied / "model.safetensors", 1)
    (completion,) = generate(engine, request(0, prompt, max_tokens=5))
    expect_plain(untied, prompt, completion)
    with pytest.raises(CheckpointError, match=r"lacks tensors: lm_head\.weight"):
        engine.load(folder / "model.safetensors", 2)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_prompt_that_was_read_over_a_change_of_weights_is_read_again(
    folder: Path, other_folder: Path, steps: int
) -> None:
    engine = tiny_engine(folder, version=3, prefill_tokens=16)
    prompt = random_prompt(6, 40)
    # The second waits for the prompt of the first.
    for number in range(2):
        engine.submit(b"peer", request(number, prompt, max_tokens=5, seed=number))
    for _ in range(steps):
        assert not engine.step()
    engine.load(other_folder / "model.safetensors", 4)
    for completion in drain(engine).values():
        assert completion.policy_versions.tolist() == [4] * 5
        expect_plain(other_folder, prompt, completion)
    assert engine.counters.prefilled == 16 * steps + 40


def test_memory_stays_flat_over_many_versions(folder: Path, other_folder: Path) -> None:
    """Without the garbage collector's help: nothing of an old version is left in a cycle."""
    engine = tiny_engine(folder)
    resident: list[int] = []
    gc.disable()
    try:
        for version in range(1, 1001):
            source = folder if version % 2 else other_folder
            engine.load(source / "model.safetensors", version)
            prompt = random_prompt(version % 7, 120)
            generate(engine, *(request(i, prompt[: 100 + i], max_tokens=1, seed=i) for i in range(2)))
            if version % 100 == 0:
                resident.append(resident_bytes())
    finally:
        gc.enable()
    # Of each version the cache held 120 tokens of 96 numbers in 3 layers: 138 kB.
    assert resident[-1] - resident[1] < 20_000_000, resident


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_cancelled_request_leaves_its_place_at_once(folder: Path, steps: int) -> None:
    engine = tiny_engine(folder, max_rows=2, prefill_tokens=32)
    prompt = random_prompt(0, 50)
    for number in range(4):
        engine.submit(b"peer", request(number, prompt, max_tokens=50, seed=number))
    for _ in range(steps):
        engine.step()
    for number in (0, 3, 77):
        engine.cancel((b"peer", number))
    engine.cancel((b"other", 1))
    assert engine.running + engine.waiting == 2
    answers = drain(engine)
    assert sorted(answers) == [1, 2]
    for completion in answers.values():
        expect_plain(folder, prompt, completion)


def spelled(token_ids: list[int]) -> str:
    """Every token is two letters."""
    return "".join(f"{chr(97 + one // 26)}{chr(97 + one % 26)}" for one in token_ids)


def test_a_stop_string_ends_the_completion_and_belongs_to_it(folder: Path) -> None:
    prompt = random_prompt(4, 10)
    engine = tiny_engine(folder, decode=spelled)
    (free,) = generate(engine, request(0, prompt, max_tokens=60, seed=1))
    text = spelled(free.token_ids.tolist())
    # From the middle of a token to the middle of one: the text of the whole tokens stays.
    stop = text[41:48]
    assert text.index(stop) == 41
    asked = request(1, prompt, max_tokens=60, seed=1, stop=("zz", stop))
    (stopped,) = generate(engine, asked)
    assert stopped.token_ids.tolist() == free.token_ids[:24].tolist()
    assert (stopped.finish_reason, stopped.stop) == ("stop", stop)
    (never,) = generate(engine, request(2, prompt, max_tokens=60, seed=1, stop=("!",)))
    assert never.token_ids.tolist() == free.token_ids.tolist()
    assert (never.finish_reason, never.stop) == ("length", "")


def test_stop_strings_without_a_tokenizer_are_refused(folder: Path) -> None:
    engine = tiny_engine(folder)
    with pytest.raises(InvalidRequestError, match=r"expected no stop strings .*, got \('x',\)"):
        engine.check(request(0, random_prompt(0, 4), stop=("x",)))


def test_long_requests_make_room_for_themselves(folder: Path) -> None:
    engine = tiny_engine(folder, max_rows=8, kv_tokens=1024, prefill_tokens=64)
    lengths = [20, 20, 20, 400, 20, 20, 20, 20, 20, 150]
    prompts = [random_prompt(i, length) for i, length in enumerate(lengths)]
    requests = [request(i, prompt, max_tokens=30, seed=i) for i, prompt in enumerate(prompts)]
    for prompt, completion in zip(prompts, generate(engine, *requests), strict=True):
        expect_plain(folder, prompt, completion)


def test_the_prefix_cache_stays_within_its_budget(folder: Path) -> None:
    engine = tiny_engine(folder, prefix_tokens=100)
    for seed in range(10):
        generate(engine, request(seed, random_prompt(seed, 40), max_tokens=5))
        assert _rows(engine).prefixes.num_tokens <= 100
    assert engine.counters.reused == 0
    off = tiny_engine(folder, prefix_tokens=0)
    prompt = random_prompt(0, 40)
    for completion in generate(off, *(request(i, prompt, max_tokens=4, seed=i) for i in range(3))):
        expect_plain(folder, prompt, completion)


def test_what_can_never_be_answered_is_refused(folder: Path) -> None:
    engine = tiny_engine(folder, max_context=100)
    assert engine.max_context == 100
    bad = {
        r"expected prompt tokens in \[0, 300\), got 5..300": np.array([5, VOCAB], np.int32),
        r"expected prompt tokens in \[0, 300\), got -1..5": np.array([5, -1], np.int32),
        "at least one token": np.empty(0, np.int32),
        r"at most 100 tokens, got 91 \+ 10": random_prompt(0, 91),
    }
    for reason, prompt in bad.items():
        with pytest.raises(InvalidRequestError, match=reason):
            engine.check(request(0, prompt, max_tokens=10))
    engine.check(request(0, random_prompt(0, 90), max_tokens=10))


def test_dropping_all_leaves_a_working_engine(folder: Path) -> None:
    engine = tiny_engine(folder, max_rows=2)
    for number in range(5):
        engine.submit(b"peer", request(number, random_prompt(number, 4), max_tokens=9))
    engine.step()
    assert sorted(engine.drain()) == [(b"peer", number) for number in range(5)]
    assert not engine.busy
    prompt = random_prompt(9, 14)
    (completion,) = generate(engine, request(9, prompt, max_tokens=4))
    expect_plain(folder, prompt, completion)


def test_bfloat16_differs_no_more_than_two_plain_forwards_of_other_shapes(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    from trieline.learner.policy_server.config import PolicyServerConfig
    from trieline.learner.policy_server.decoders.choose_decoder import load_decoder

    engine = CpuEngine(load_decoder(folder, torch.bfloat16), PolicyServerConfig())
    prompts = [random_prompt(seed, 24) for seed in range(32)]
    completions = generate(
        engine, *(request(i, prompt, max_tokens=16, seed=i) for i, prompt in enumerate(prompts))
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    tokens = torch.tensor(
        np.array([np.concatenate([p, c.token_ids]) for p, c in zip(prompts, completions, strict=True)])
    ).long()

    def chosen(rows: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            logprobs = model(rows).logits.float().log_softmax(-1)
        return logprobs[:, 23:-1].gather(-1, rows[:, 24:, None])[..., 0]  # type: ignore[no-any-return]

    def mean_difference(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a - b).abs().mean())

    alone = torch.cat([chosen(row[None]) for row in tokens])
    exact = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        logprobs = exact(tokens).logits.log_softmax(-1)
    truth = logprobs[:, 23:-1].gather(-1, tokens[:, 24:, None])[..., 0]
    served = torch.tensor(np.array([one.logprobs for one in completions]))
    # The distance to the exact value is what bfloat16 itself costs; the server adds next to nothing to it.
    assert mean_difference(served, truth) < 1.15 * mean_difference(alone, truth)


@pytest.mark.parametrize("fused", [True, False])
def test_adapters_are_computed_beside_the_weights_of_the_folder(fused: bool, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "base", "llama")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    adapters = Adapters(model, LoraConfig(rank=2, targets=("q_proj", "down_proj")), folder)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    engine = tiny_engine(folder, fused=fused)
    prompt = random_prompt(0, 12)
    for version in (1, 2):
        for parameter in trained.values():
            torch.nn.init.normal_(parameter, std=0.3)
        weights = tmp_path / f"{version}.safetensors"
        published = {n: p.detach() for n, p in adapters.published(trained).items()}
        write_weights(weights, published, metadata={ADAPTER_KEY: adapters.config_json})
        engine.load(weights, version)
        (completion,) = generate(engine, request(version, prompt, max_tokens=9))
        merged = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(folder), str(_peft_folder(tmp_path, adapters, weights))
        ).merge_and_unload()
        merged.save_pretrained(tmp_path / f"merged_{version}")
        expect_plain(tmp_path / f"merged_{version}", prompt, completion)
        assert set(completion.policy_versions.tolist()) == {version}
    write_weights(
        weights, published, metadata={ADAPTER_KEY: '{"peft_type": "LORA", "r": 3, "lora_alpha": 1}'}
    )
    with pytest.raises(CheckpointError, match=r"expected factors \[\[3, 80\], \[48, 3\]\]"):
        engine.load(weights, 3)
    assert engine.policy_version == 2
    # Whole weights are whole.
    engine.load(folder / "model.safetensors", 4)
    expect_plain(folder, prompt, generate(engine, request(4, prompt, max_tokens=9))[0])


def _peft_folder(path: Path, adapters: Adapters, weights: Path) -> Path:
    folder = path / weights.stem
    folder.mkdir()
    (folder / "adapter_config.json").write_text(adapters.config_json)
    shutil.copyfile(weights, folder / "adapter_model.safetensors")
    return folder
