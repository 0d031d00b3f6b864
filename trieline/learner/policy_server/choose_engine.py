"""Which engine samples for the policy server."""

import os

from trieline.learner.model_folder.model_source import prepare_model
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.engine import Engine, EnginePlace
from trieline.wire.config import ModelConfig


def load_engine(
    config: PolicyServerConfig, model: ModelConfig, *, place: EnginePlace | None = None
) -> Engine:
    """The engine of a model, ready to sample at full speed.

    Raises:
        LearnerError: the model can't be used, or the engine of others does not come up.
    """
    config.validate()
    if config.backend != "own":
        from trieline.learner.policy_server.foreign.start import start_engine

        return start_engine(config, model, place or EnginePlace())
    return _own_engine(config, model)


def _own_engine(config: PolicyServerConfig, model: ModelConfig) -> Engine:
    import torch

    from trieline.learner.model.compute_device import choose_device
    from trieline.learner.model.compute_dtype import choose_dtype
    from trieline.learner.policy_server.batching.grammars import Grammars
    from trieline.learner.policy_server.batching.stop_text import tokenizer_decode
    from trieline.learner.policy_server.cpu.cpu_engine import CpuEngine
    from trieline.learner.policy_server.decoders.choose_decoder import load_decoder
    from trieline.learner.policy_server.gpu.gpu_engine import GpuEngine

    torch.set_num_threads(config.threads or len(os.sched_getaffinity(0)))
    folder = prepare_model(model.path)
    device = choose_device(config.device, setting="policy_server.device")
    decoder = load_decoder(folder, choose_dtype(model.dtype, device), device=device)
    tokenizer = folder / "tokenizer.json"
    engine = (GpuEngine if device.type == "cuda" else CpuEngine)(
        decoder,
        config,
        decode=tokenizer_decode(folder),
        grammars=Grammars(tokenizer, decoder.vocab_size) if tokenizer.is_file() else None,
    )
    engine.warm_up()
    return engine
