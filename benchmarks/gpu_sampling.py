"""Tokens a second of the policy server's engine for a GPU, at the shape of a model, with random weights.

    python -m benchmarks.gpu_sampling [--model qwen3-0.6b] [--rows 1 8 64] [--prompt 512] [--new 128]

Loads: `shared`, all requests have one prompt; `different`, each its own. Sides: `graphs`, decoding steps as
CUDA graphs, and `launched`, each step launches its kernels. Prompts are read within the time. Without a GPU
the same engine runs on the CPU, `launched` alone. Written to `sampling.json` in `--output`.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from benchmarks.train_step import machine
from trieline.learner.model_folder.shapes import SHAPES
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.decoders.llama_decoder import LlamaDecoder
from trieline.learner.policy_server.gpu.gpu_engine import GpuEngine
from trieline.wire.messages import GenerateRequest, Sampling

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32


def make_decoder(model: str) -> LlamaDecoder:
    torch.manual_seed(0)
    from_config: Any = AutoModelForCausalLM.from_config  # without annotations
    with DEVICE:
        hf_model = from_config(SHAPES[model], dtype=DTYPE).eval().requires_grad_(False)
    return LlamaDecoder(hf_model, DTYPE)


def seconds_of(engine: GpuEngine, rows: int, load: str, options: argparse.Namespace) -> float:
    """Of all requests of a load, asked at once."""
    rng = np.random.default_rng(rows)
    prompts = rng.integers(0, engine.vocab_size, (rows, options.prompt)).astype(np.int32)
    engine.drain()
    began = time.perf_counter()
    for number in range(rows):
        prompt = prompts[0 if load == "shared" else number]
        sampling = Sampling(max_tokens=options.new, seed=number)
        engine.submit(b"", GenerateRequest(request_id=number, prompt=prompt, sampling=sampling))
    while engine.busy:
        engine.step()
    return time.perf_counter() - began


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    decoder = make_decoder(options.model)
    longest = max(options.rows)
    room = options.prompt + options.new
    config = PolicyServerConfig(
        max_rows=longest, max_context=room, kv_tokens=longest * room, prefill_tokens=8192
    )
    for side in ("graphs", "launched") if DEVICE.type == "cuda" else ("launched",):
        engine = GpuEngine(decoder, config)
        if side == "graphs":
            engine.warm_up()
        seconds_of(engine, 1, "different", options)  # kernels are compiled
        for load in ("shared", "different"):
            for rows in options.rows:
                seconds = min(seconds_of(engine, rows, load, options) for _ in range(options.rounds))
                row = {
                    "model": options.model,
                    "side": side,
                    "load": load,
                    "rows": rows,
                    "seconds": seconds,
                    "tokens_per_second": rows * options.new / seconds,
                }
                speed = f"{row['tokens_per_second']:9.1f} tokens/s"
                print(f"{side:9} {load:10} {rows:4} rows: {speed}", flush=True)
                yield row
        del engine


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SHAPES, default="qwen3-0.6b")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    about = {"machine": machine(), "prompt": options.prompt, "new": options.new, "rows": rows}
    for row in measure(options):
        rows.append(row)
        (options.output / "sampling.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
