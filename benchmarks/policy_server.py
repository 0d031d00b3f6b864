"""Sampling speed of the policy server's engine against `model.generate` of transformers.

    python benchmarks/policy_server.py [--model FOLDER] [--rows 64] [--rounds 3]

Both sides get the same ragged prompts, sample at temperature 1 from the whole vocabulary and make the same
number of new tokens for each: 32 with SmolLM2, 16 and 32 with the tiny model (their recipes sample 6 to 40,
and 6 or 7). `generate` runs left-padded in the better of its dynamic and its static cache, and its logits
are not even recorded; the engine gives log-probability and entropy with each token.
Three loads:

* `groups`: 8 prompts of 40 to 140 tokens, each for 8 rollouts, as they arrive in training;
* `different`: 64 different prompts, where nothing can be shared;
* `turns`: 3 turns, the prompt of each being the one before, what was sampled, and 12 new tokens.

With `--vllm EXECUTABLE` instead, vLLM is a column beside them, as `policy_server.backend = "vllm"` asks it:
over HTTP, with the 20 log-probabilities that entropies are estimated from. SmolLM2 at 1, 8 and 64 rows,
prompts shared by 8 and all different, 32 new tokens; written to `policy_server_engines.json` after each. vLLM
gets the arguments after `--`, and one load that is not counted.

Written to `benchmarks/results/policy_server.json`. A round runs all sides one after the other; the figures
are those of each side's fastest round, as other programs can only slow one down. Beside them stands the ratio
of processor time, which other programs change less.
"""

import argparse
import contextlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from trieline.common.arrays import Int32
from trieline.learner.allocator import keep_freed_memory
from trieline.learner.model.compute_dtype import choose_dtype
from trieline.learner.model_folder.model_source import prepare_model
from trieline.learner.model_folder.tiny_model import save_tiny_model
from trieline.learner.policy_server.choose_engine import load_engine
from trieline.learner.policy_server.config import EngineConfig, PolicyServerConfig
from trieline.learner.policy_server.cpu.cpu_engine import CpuEngine
from trieline.learner.policy_server.decoders.choose_decoder import load_decoder
from trieline.learner.policy_server.engine import Engine, EnginePlace
from trieline.wire.config import ModelConfig
from trieline.wire.messages import GenerateRequest, Sampling

RESULTS = Path(__file__).parent / "results" / "policy_server.json"
GROUP = 8
ENGINE_ROWS = [1, 8, 64]
TURNS = 3
NEW_CONTEXT = 12
NEW_TOKENS = {"tiny": (16, 32), "smollm2": (32,)}
PROMPT_LENGTHS = (40, 140)

Prompts = list[Int32]
Sampler = Callable[[Prompts], Prompts]
"""Prompts to completions."""


class EngineSide:
    """The engine, with a cache that starts each load empty."""

    def __init__(self, folder: Path, dtype: torch.dtype, rows: int, tokens: int) -> None:
        self._decoder = load_decoder(folder, dtype)
        self._config = PolicyServerConfig(max_rows=rows)
        self._tokens = tokens
        self.reset()

    def reset(self) -> None:
        self._engine = CpuEngine(self._decoder, self._config)

    def __call__(self, prompts: Prompts) -> Prompts:
        for number, prompt in enumerate(prompts):
            sampling = Sampling(max_tokens=self._tokens, seed=number)
            self._engine.submit(b"", GenerateRequest(request_id=number, prompt=prompt, sampling=sampling))
        answers: dict[int, Int32] = {}
        while self._engine.busy:
            for finished in self._engine.step():
                answers[finished.ticket[1]] = finished.completion.token_ids
        return [answers[number] for number in range(len(prompts))]


class GenerateSide:
    """`model.generate` on left-padded prompts."""

    def __init__(self, folder: Path, dtype: torch.dtype, tokens: int, cache: str) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa"
        )
        self._settings: dict[str, Any] = {
            "do_sample": True,
            "top_k": 0,
            "max_new_tokens": tokens,
            "min_new_tokens": tokens,
            "pad_token_id": 0,
            # Without an end token no logits processor is needed to keep it from being sampled.
            "eos_token_id": None,
        }
        if cache == "static":
            self._settings |= {"cache_implementation": "static", "disable_compile": True}
        del self._settings["min_new_tokens"]
        self._model.generation_config.eos_token_id = None

    def reset(self) -> None:
        pass

    def __call__(self, prompts: Prompts) -> Prompts:
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.from_numpy(prompt)
            mask[row, longest - len(prompt) :] = 1
        out = self._model.generate(ids, attention_mask=mask, **self._settings)
        return list(out[:, longest:].numpy().astype(np.int32))


class ForeignSide:
    """An engine of others, started by the policy server's own code."""

    def __init__(self, engine: Engine, tokens: int) -> None:
        self._engine = engine
        self._tokens = tokens

    def reset(self) -> None:
        """Prompts of another seed are new to its cache."""

    def __call__(self, prompts: Prompts) -> Prompts:
        for number, prompt in enumerate(prompts):
            sampling = Sampling(max_tokens=self._tokens, seed=number)
            self._engine.submit(b"", GenerateRequest(request_id=number, prompt=prompt, sampling=sampling))
        answers: dict[int, Int32] = {}
        while len(answers) < len(prompts):
            answers |= {one.ticket[1]: one.completion.token_ids for one in self._engine.step()}
            if refused := self._engine.take_refused():
                raise SystemExit(refused[0].reason)
        return [answers[number] for number in range(len(prompts))]


def prompts_of(load: str, rows: int, vocab: int, seed: int) -> Prompts:
    rng = np.random.default_rng(seed)
    repeats = 1 if load == "different" else min(rows, GROUP)
    return [
        prompt
        for _ in range(rows // repeats)
        for prompt in [rng.integers(0, vocab, rng.integers(*PROMPT_LENGTHS)).astype(np.int32)] * repeats
    ]


@dataclass(frozen=True)
class Speed:
    """Sampled tokens per second of the clock, and of processor time summed over the threads."""

    wall: float
    processor: float


def run_load(load: str, side: Sampler, prompts: Prompts, vocab: int, tokens: int) -> Speed:
    rng = np.random.default_rng(0)
    made, began, processor_began = 0, time.perf_counter(), time.process_time()
    for _ in range(TURNS if load == "turns" else 1):
        completions = side(prompts)
        made += sum(map(len, completions))
        assert all(len(one) == tokens for one in completions)
        context = rng.integers(0, vocab, NEW_CONTEXT).astype(np.int32)
        prompts = [np.concatenate([p, c, context]) for p, c in zip(prompts, completions, strict=True)]
    return Speed(
        wall=made / (time.perf_counter() - began), processor=made / (time.process_time() - processor_began)
    )


def compare(folder: Path, dtype: torch.dtype, tokens: int, arguments: argparse.Namespace) -> dict[str, Any]:
    sides: dict[str, Any] = {
        "engine": EngineSide(folder, dtype, arguments.rows, tokens),
        "generate_dynamic": GenerateSide(folder, dtype, tokens, "dynamic"),
        "generate_static": GenerateSide(folder, dtype, tokens, "static"),
    }
    vocab = int(json.loads((folder / "config.json").read_text())["vocab_size"])
    result: dict[str, Any] = {"dtype": str(dtype).removeprefix("torch.")}
    for load in arguments.loads:
        speeds: dict[str, list[Speed]] = {name: [] for name in sides}
        for seed in range(arguments.rounds):
            prompts = prompts_of(load, arguments.rows, vocab, seed)
            for name, side in sides.items():
                side.reset()
                speeds[name].append(run_load(load, side, prompts, vocab, tokens))
        best = {name: max(speed.wall for speed in rounds) for name, rounds in speeds.items()}
        processor = {name: max(speed.processor for speed in rounds) for name, rounds in speeds.items()}
        result[load] = {name: round(speed, 1) for name, speed in best.items()}
        result[load]["ratio"] = _ratio(best)
        result[load]["processor_time_ratio"] = _ratio(processor)
        print(f"{folder.name:24} {tokens} tokens {load:10}", result[load], flush=True)
    return result


def compare_engines(
    folder: Path, dtype: torch.dtype, arguments: argparse.Namespace, results: dict[str, Any]
) -> None:
    """Sampled tokens a second of each side, by rows and load: the fastest of some rounds."""
    tokens = NEW_TOKENS["smollm2"][0]
    vocab = int(json.loads((folder / "config.json").read_text())["vocab_size"])
    result: dict[str, Any] = {"dtype": str(dtype).removeprefix("torch.")}
    with contextlib.ExitStack() as stack:
        vllm = ForeignSide(_start_vllm(folder, dtype, arguments, stack), tokens)
        run_load("different", vllm, prompts_of("different", 8, vocab, 99), vocab, tokens)
        for rows in ENGINE_ROWS:
            sides: dict[str, Any] = {
                "engine": EngineSide(folder, dtype, rows, tokens),
                "generate": GenerateSide(folder, dtype, tokens, "dynamic"),
                "vllm": vllm,
            }
            for load in ("groups", "different"):
                speeds: dict[str, float] = dict.fromkeys(sides, 0.0)
                for seed in range(arguments.rounds):
                    prompts = prompts_of(load, rows, vocab, 100 * rows + seed)
                    for name, side in sides.items():
                        side.reset()
                        speeds[name] = max(speeds[name], run_load(load, side, prompts, vocab, tokens).wall)
                kind = "shared" if load == "groups" else "unshared"
                result[f"{rows} rows, {kind}"] = {name: round(speed, 1) for name, speed in speeds.items()}
                RESULTS.with_name("policy_server_engines.json").write_text(
                    json.dumps(results | result, indent=2) + "\n"
                )
                print(f"{rows} rows, {kind}", result[f"{rows} rows, {kind}"], flush=True)


def _start_vllm(
    folder: Path, dtype: torch.dtype, arguments: argparse.Namespace, stack: contextlib.ExitStack
) -> Engine:
    engine = load_engine(
        PolicyServerConfig(
            backend="vllm",
            engine=EngineConfig(
                command=[arguments.vllm, "serve"],
                arguments=arguments.vllm_arguments,
                request_timeout_s=600.0,
            ),
        ),
        ModelConfig(path=str(folder), dtype=str(dtype).removeprefix("torch.")),  # type: ignore[arg-type]
        place=EnginePlace(log_file=Path(tempfile.gettempdir()) / "trieline-vllm.log"),
    )
    stack.callback(engine.close)
    return engine


def _ratio(speeds: dict[str, float]) -> float:
    """The engine's speed over that of the better way to generate."""
    return round(speeds["engine"] / max(speed for name, speed in speeds.items() if name != "engine"), 2)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="builtin:smollm2-135m-instruct", help="a model folder or its name")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, nargs="+", help="new tokens of each request")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--loads", nargs="+", default=["groups", "different", "turns"])
    parser.add_argument("--vllm", metavar="EXECUTABLE", help="compare with this vLLM, at several rows")
    parser.add_argument("vllm_arguments", nargs="*", help="after `--`: arguments of vLLM")
    parser.add_argument("--only", choices=["smollm2", "tiny"])
    return parser.parse_args(arguments)


def main() -> None:
    arguments = parse()
    keep_freed_memory()  # as the policy server's program does
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    results: dict[str, Any] = {
        "machine": f"{platform.machine()}, {arguments.threads} threads, torch {torch.__version__}",
        "rows": arguments.rows,
        "unit": "sampled tokens/s",
    }
    if arguments.vllm is not None:
        results["rows"] = ENGINE_ROWS
        compare_engines(prepare_model(arguments.model), choose_dtype("auto"), arguments, results)
        return
    with tempfile.TemporaryDirectory() as scratch:
        for name in ["tiny", "smollm2"] if arguments.only is None else [arguments.only]:
            if name == "tiny":
                folder, dtype = Path(scratch) / "tiny-qwen3", torch.float32
                save_tiny_model(folder)
            else:
                folder, dtype = prepare_model(arguments.model), choose_dtype("auto")
            results[name] = {
                f"{tokens} new tokens": compare(folder, dtype, tokens, arguments)
                for tokens in arguments.tokens or NEW_TOKENS[name]
            }
    if arguments.only is None:
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
