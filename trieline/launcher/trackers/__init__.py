"""The figures of a run in the experiment trackers of others: Weights & Biases, Trackio, MLflow.

`metrics.jsonl` is the queue: a program of its own for each tracker follows it, so that nothing of a tracker,
its library, network or failures, touches the programs that train, and what could not be sent is sent later.
"""
