"""Which engine samples for the policy server."""

import os
from pathlib import Path

from trieline.learner.model_folder.model_source import prepare_model
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.engine import Engine
from trieline.wire.config import ModelConfig


def load_engine(
    config: PolicyServerConfig, model: ModelConfig, *, weights: Path | None = None, policy_version: int = 0
) -> Engine:
    """The engine of a model, ready to sample at full speed.

    `weights`: a safetensors file that replaces the weights in the model's folder, being `policy_version`.

    Raises:
        LearnerError: the model or the weights can't be used.
    """
    import torch

    from trieline.learner.model.compute_dtype import choose_dtype
    from trieline.learner.policy_server.cpu.decoder import load_decoder
    from trieline.learner.policy_server.cpu.engine import CpuEngine
    from trieline.learner.policy_server.cpu.stop_text import tokenizer_decode

    torch.set_num_threads(config.threads or len(os.sched_getaffinity(0)))
    folder = prepare_model(model.path)
    decoder = load_decoder(folder, choose_dtype(model.dtype))
    engine = CpuEngine(decoder, config, policy_version=policy_version, decode=tokenizer_decode(folder))
    if weights is not None:
        engine.load(weights, policy_version)
    engine.warm_up()
    return engine
