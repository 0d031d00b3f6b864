"""The policy server: answers `generate` with the newest weights, by continuous batching over a KV cache."""
