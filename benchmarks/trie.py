"""How long it takes to merge sequences into tries and to distribute the tries over packs.

    python -m benchmarks.trie [--sequences 1000] [--length 8192] [--group 8] [--rounds 5]

Two loads: `rollouts`, groups that share a prompt of a quarter of their length, and `turns`, groups whose
sequences fork from one another at turns, as agents' histories do, each sharing three quarters on average.
The time is that of the fastest round. Written to `benchmarks/results/trie.json`.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.train_step import machine
from trieline.common.arrays import Int32
from trieline.learner.batch.packing import pack_groups
from trieline.learner.batch.trie import build_trie

RESULTS = Path(__file__).parent / "results" / "trie.json"
VOCABULARY = 49_152
TURNS = 16
BAR_SECONDS = 1.0


def make_group(load: str, size: int, length: int, rng: np.random.Generator) -> list[Int32]:
    """`size` sequences of one task."""

    def tokens(count: int) -> Int32:
        return rng.integers(0, VOCABULARY, count).astype(np.int32)

    first = tokens(length)
    sequences = [first]
    for _ in range(size - 1):
        source = sequences[rng.integers(len(sequences))]
        shared = length // 4 if load == "rollouts" else length * int(rng.integers(TURNS // 2, TURNS)) // TURNS
        sequences.append(np.concatenate([source[:shared], tokens(length - shared)]))
    return sequences


def measure(load: str, options: argparse.Namespace) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    groups = [
        make_group(load, options.group, options.length, rng)
        for _ in range(options.sequences // options.group)
    ]
    building = packing = float("inf")
    for _ in range(options.rounds):
        began = time.perf_counter()
        tries = [build_trie(group) for group in groups]
        built = time.perf_counter()
        packs = pack_groups(
            [trie.num_tokens for trie in tries], [group[0] for group in groups], max_tokens=options.max_tokens
        )
        packed = time.perf_counter()
        building, packing = min(building, built - began), min(packing, packed - built)
    sequence_tokens = sum(len(sequence) for group in groups for sequence in group)
    unique_tokens = sum(trie.num_tokens for trie in tries)
    result = {
        "load": load,
        "sequences": sum(map(len, groups)),
        "sequence_tokens": sequence_tokens,
        "unique_tokens": unique_tokens,
        "packs": len(packs),
        "build_seconds": building,
        "pack_seconds": packing,
    }
    print(
        f"{load:9} {result['sequences']} sequences, L {sequence_tokens}, N {unique_tokens}: "
        f"{building:.3f} s to merge, {packing:.3f} s to distribute over {len(packs)} packs "
        f"(bar {BAR_SECONDS:g} s)"
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequences", type=int, default=1000)
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=131_072)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    about = machine()
    print(about)
    rows = [measure(load, options) for load in ("rollouts", "turns")]
    RESULTS.write_text(
        json.dumps({"machine": about, "bar_seconds": BAR_SECONDS, "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
