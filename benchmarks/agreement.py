"""How far apart are the log-probabilities of the policy server and of the learner, for the same weights?

    python -m benchmarks.agreement [--model FOLDER] [--rows 32] [--tokens 32]

The engine samples replies to the prompts of the recipe's environments, and records the log-probability of
each token as it goes. The learner then recomputes them in one forward over the trie. Beside that stands how
far transformers' own forward is from itself when only the shape of the batch changes: each sequence alone,
all of them padded in one batch, and token by token with a key-value cache. In nats, mean and maximum over
all sampled tokens. Written to `benchmarks/results/agreement.json`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from benchmarks.train_step import machine
from trieline.actors.chat import ChatRenderer
from trieline.common.arrays import Int32
from trieline.config import load_config
from trieline.envs import make_env
from trieline.learner.batch.trie import build_trie
from trieline.learner.model.compute_dtype import choose_dtype, dtype_name
from trieline.learner.model.tree_forward import load_tree_model
from trieline.learner.model_folder.model_source import prepare_model
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.cpu.cpu_engine import CpuEngine
from trieline.learner.policy_server.decoders.choose_decoder import load_decoder
from trieline.wire.messages import GenerateRequest, Sampling

RESULTS = Path(__file__).parent / "results" / "agreement.json"

Floats = npt.NDArray[np.float32]
Pairs = list[tuple[Int32, Int32]]
"""Prompts and completions."""


def prompts_of(folder: Path, rows: int) -> list[Int32]:
    """First messages of the recipe's environments, eight rollouts a task."""
    config = load_config(["smollm2"])
    renderer = ChatRenderer(
        folder, system_prompt=config.actor.system_prompt, template_kwargs=config.model.template_kwargs
    )
    prompts = []
    for number in range(rows):
        task, env_config = number // 8, config.envs[number // 8 % len(config.envs)]
        env = make_env(env_config.id, **env_config.kwargs)
        message, _ = env.reset(seed=task)
        prompts.append(renderer.prompt_tokens(message))
        env.close()
    return prompts


def sample(folder: Path, dtype: torch.dtype, prompts: list[Int32], tokens: int) -> tuple[Pairs, Floats]:
    """What the policy server's engine samples, and the log-probabilities that it records."""
    engine = CpuEngine(load_decoder(folder, dtype), PolicyServerConfig())
    for number, prompt in enumerate(prompts):
        sampling = Sampling(max_tokens=tokens, seed=number)
        engine.submit(b"", GenerateRequest(request_id=number, prompt=prompt, sampling=sampling))
    done = {}
    while engine.busy:
        for finished in engine.step():
            done[finished.ticket[1]] = finished.completion
    pairs = [(prompt, done[number].token_ids) for number, prompt in enumerate(prompts)]
    return pairs, np.concatenate([done[number].logprobs for number in range(len(prompts))])


@torch.no_grad()
def learner_logprobs(folder: Path, dtype: torch.dtype, pairs: Pairs) -> Floats:
    model = load_tree_model(folder, dtype, False)
    trie = build_trie([np.concatenate(pair) for pair in pairs])
    logits = model.hidden_states(trie) @ model.output_weight.T
    return chosen(
        logits, [(path, prompt, reply) for path, (prompt, reply) in zip(trie.paths, pairs, strict=True)]
    )


@torch.no_grad()
def alone(model: Any, pairs: Pairs) -> Floats:
    rows = [model(torch.from_numpy(np.concatenate(pair))[None].long()).logits[0] for pair in pairs]
    return np.concatenate(
        [
            chosen(row, [(np.arange(len(row), dtype=np.int32), *pair)])
            for row, pair in zip(rows, pairs, strict=True)
        ]
    )


@torch.no_grad()
def padded(model: Any, pairs: Pairs) -> Floats:
    longest = max(len(prompt) + len(reply) for prompt, reply in pairs)
    ids = torch.zeros(len(pairs), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, pair in enumerate(pairs):
        tokens = torch.from_numpy(np.concatenate(pair))
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    logits = model(ids, attention_mask=mask).logits
    everything = np.arange(longest, dtype=np.int32)
    return np.concatenate(
        [chosen(row, [(everything, *pair)]) for row, pair in zip(logits, pairs, strict=True)]
    )


@torch.no_grad()
def cached(model: Any, pairs: Pairs) -> Floats:
    found = []
    for prompt, reply in pairs:
        cache, step = DynamicCache(), torch.from_numpy(prompt)[None].long()
        for token in reply.tolist():
            logits = model(step, past_key_values=cache, use_cache=True).logits[0, -1]
            found.append(float(torch.log_softmax(logits.float(), -1)[token]))
            step = torch.tensor([[token]])
    return np.array(found, np.float32)


def chosen(logits: torch.Tensor, paths: list[tuple[Int32, Int32, Int32]]) -> Floats:
    """Log-probabilities of the replies, which follow their prompts along paths into `logits` [T, V]."""
    logprobs = torch.log_softmax(logits.float(), -1)
    parts = [
        logprobs[path[len(prompt) - 1 : len(prompt) + len(reply) - 1], reply] for path, prompt, reply in paths
    ]
    return torch.cat(parts).numpy()


def apart(a: Floats, b: Floats) -> dict[str, float]:
    differences = np.abs(a.astype(np.float64) - b)
    return {"mean": float(differences.mean()), "max": float(differences.max())}


def measure(folder: Path, dtype: torch.dtype, rows: int, tokens: int) -> dict[str, Any]:
    pairs, recorded = sample(folder, dtype, prompts_of(folder, rows), tokens)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    single = alone(model, pairs)
    return {
        "sampled_tokens": len(recorded),
        "policy server against learner": apart(recorded, learner_logprobs(folder, dtype, pairs)),
        "transformers alone against padded": apart(single, padded(model, pairs)),
        "transformers alone against cached": apart(single, cached(model, pairs)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="builtin:smollm2-135m-instruct")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    folder = prepare_model(options.model)
    # With AMX, the sums of a product in bfloat16 run in another order for few rows than for many.
    results: dict[str, Any] = {"machine": machine(), "unit": "nats"}
    print(results["machine"])
    for dtype in dict.fromkeys((choose_dtype("auto"), torch.float32)):
        results[dtype_name(dtype)] = measured = measure(folder, dtype, options.rows, options.tokens)
        for name, figures in measured.items():
            print(dtype_name(dtype), name, figures, flush=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
