"""What masks cost the policy server: time of a decoding step, and bytes to be told with a token.

    python -m benchmarks.masks [--rows 64] [--tokens 32] [--rounds 3]

SmolLM2-135M answers `--rows` chats with `--tokens` tokens each, at temperature 1: from the whole vocabulary,
under a JSON schema (a list of strings), as a forced call of a tool, and cut by top-p and top-k, silently and
with their masks told. Milliseconds of processor time and of the clock for each step of all rows, of the
fastest round; bytes of all masks of a completion over its tokens, as they are sent. Written to
`benchmarks/results/masks.json`.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trieline.actors.chat import ChatRenderer
from trieline.actors.tool_grammars import forced_call, json_reply
from trieline.common.arrays import Int32
from trieline.learner.model_folder.model_source import prepare_model
from trieline.learner.policy_server.choose_engine import load_engine
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.cpu.cpu_engine import CpuEngine
from trieline.wire.config import ModelConfig
from trieline.wire.messages import Completion, GenerateRequest, Sampling

RESULTS = Path(__file__).parent / "results" / "masks.json"
MODEL = ModelConfig(path="builtin:smollm2-135m-instruct")
WORDS = json_reply({"type": "array", "items": {"type": "string"}, "minItems": 99})
PARAMETERS = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
CALL = forced_call("hermes", [{"type": "function", "function": {"name": "say", "parameters": PARAMETERS}}])
SIDES: dict[str, dict[str, Any]] = {
    "whole vocabulary": {},
    "JSON schema": {"json_schema": WORDS},
    "forced call": {"lark": CALL},
    "top_k 50": {"top_k": 50},
    "top_k 50, told": {"top_k": 50, "tell_masks": True},
    "top_p 0.9": {"top_p": 0.9},
    "top_p 0.9, told": {"top_p": 0.9, "tell_masks": True},
    "top_p 0.99, told": {"top_p": 0.99, "tell_masks": True},
}


def answered(
    engine: CpuEngine, prompts: list[Int32], **sampling: Any
) -> tuple[list[Completion], float, float]:
    """The completions, and milliseconds of processor and clock for each decoding step."""
    for number, prompt in enumerate(prompts):
        request = GenerateRequest(
            request_id=number, prompt=prompt, sampling=Sampling(seed=number, stop_ids=(0,), **sampling)
        )
        engine.check(request)
        engine.submit(b"", request)
    # Until all have read their prompts: what follows are decoding steps alone.
    while engine.waiting or engine.tokens_generated < len(prompts):
        engine.step()
    began, processor_began, steps, found = time.perf_counter(), time.process_time(), 0, []
    while engine.busy:
        found += [finished.completion for finished in engine.step()]
        steps += 1
    clock, processor = time.perf_counter() - began, time.process_time() - processor_began
    engine.drain()
    engine.warm_up()
    return found, 1000 * processor / steps, 1000 * clock / steps


def bytes_per_token(completions: list[Completion]) -> float:
    """Of the columns of masks alone."""
    columns = [c for one in completions for c in (one.mask_index, one.mask_offsets, one.mask_runs)]
    return sum(c.nbytes for c in columns) / sum(len(one.token_ids) for one in completions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    engine = load_engine(PolicyServerConfig(), MODEL)
    assert isinstance(engine, CpuEngine)
    renderer = ChatRenderer(prepare_model(MODEL.path))
    prompts = [renderer.prompt_tokens(f"Tell me about the number {n}.") for n in range(options.rows)]
    rows: dict[str, dict[str, float]] = {}
    for _ in range(options.rounds):
        for name, settings in SIDES.items():
            completions, *times = answered(engine, prompts, max_tokens=options.tokens, **settings)
            best = rows.setdefault(name, {"processor_ms": np.inf, "clock_ms": np.inf})
            for column, value in zip(("processor_ms", "clock_ms"), times, strict=True):
                best[column] = round(min(best[column], value), 2)
            best["mask_bytes"] = round(bytes_per_token(completions), 1)
    engine.close()
    for name, row in rows.items():
        print(
            f"{name:20s} {row['processor_ms']:8.1f} {row['clock_ms']:8.1f} ms {row['mask_bytes']:9.1f} bytes"
        )
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
    }
    RESULTS.write_text(
        json.dumps({"options": vars(options), "machine": machine, "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
