"""One benchmark per claim: `python -m benchmarks.NAME`."""
