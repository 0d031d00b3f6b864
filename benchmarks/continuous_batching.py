"""Does transformers' own continuous batching serve the policy server's contract, and how fast?

    python -m benchmarks.continuous_batching [--model FOLDER] [--rows 32] [--tokens 32]

`model.generate_batch` and the engine get the same prompts, those of the load `groups` of
`benchmarks/policy_server.py`, and sample the same number of tokens. Printed with the speeds: what came back
with each token, and the error if it does not run on this machine. Written to
`benchmarks/results/continuous_batching.json`.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from benchmarks.policy_server import EngineSide, Prompts, prompts_of
from trieline.learner.model.compute_dtype import choose_dtype, dtype_name
from trieline.learner.model_folder.model_source import prepare_model

NUM_BLOCKS = 256
RESULTS = Path(__file__).parent / "results" / "continuous_batching.json"


def transformers_side(
    folder: Path, dtype: torch.dtype, prompts: Prompts, tokens: int, attention: str
) -> dict[str, Any]:
    """Tokens a second and the fields of an answer, or the error."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=tokens, do_sample=True, temperature=1.0, top_k=0, eos_token_id=-1, pad_token_id=0
    )
    # Left to itself it takes nearly all memory of the machine for its cache.
    batching = ContinuousBatchingConfig(num_blocks=NUM_BLOCKS, max_batch_tokens=1024, return_logprobs=True)
    best, answer = float("inf"), None
    try:
        for _ in range(2):
            began = time.perf_counter()
            answers = model.generate_batch(
                [prompt.tolist() for prompt in prompts],
                generation_config=settings,
                continuous_batching_config=batching,
            )
            best = min(best, time.perf_counter() - began)
            answer = next(iter(answers.values()))
            made = sum(len(one.generated_tokens) for one in answers.values())
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        return {"error": f"{type(error).__name__}: {error}"}
    if answer is None or answer.error or not made:
        return {"error": answer.error if answer else "no answer"}
    return {
        "tokens_per_s": round(made / best, 1),
        "answer": [field.name for field in dataclasses.fields(answer)],
        "logprobs_given": len(answer.logprobs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="builtin:smollm2-135m-instruct")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    folder, dtype = prepare_model(options.model), choose_dtype("auto")
    vocab = int(json.loads((folder / "config.json").read_text())["vocab_size"])
    prompts = prompts_of("groups", options.rows, vocab, 0)
    engine = EngineSide(folder, dtype, options.rows, options.tokens)
    best = float("inf")
    for _ in range(2):
        engine.reset()
        began = time.perf_counter()
        made = sum(map(len, engine(prompts)))
        best = min(best, time.perf_counter() - began)
    results: dict[str, Any] = {
        "dtype": dtype_name(dtype),
        "rows": options.rows,
        "tokens": options.tokens,
        "engine": {"tokens_per_s": round(made / best, 1)},
    }
    print("engine", results["engine"], flush=True)
    for attention in ("paged|sdpa", "paged|eager"):
        side = transformers_side(folder, dtype, prompts, options.tokens, attention)
        results[f"generate_batch, {attention}"] = side
        print(f"generate_batch, {attention}", side, flush=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
