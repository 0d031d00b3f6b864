"""Starts an engine of others, or finds it at its address, and puts the parts of one together."""

import dataclasses
import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch

from trieline.common.owned_folder import OwnedFolder, new_folder
from trieline.learner.errors import ModelSourceError
from trieline.learner.model.compute_dtype import choose_dtype, dtype_name
from trieline.learner.model_folder.folder_checks import configured_vocab_size
from trieline.learner.model_folder.model_source import prepare_model
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.engine import EnginePlace
from trieline.learner.policy_server.errors import PolicyServerError
from trieline.learner.policy_server.foreign.adapter_base import AdapterBase
from trieline.learner.policy_server.foreign.child_engine import ChildEngine
from trieline.learner.policy_server.foreign.dialect import Dialect, Served
from trieline.learner.policy_server.foreign.engine import ForeignEngine
from trieline.learner.policy_server.foreign.http_link import HttpLink
from trieline.learner.policy_server.foreign.sglang import SglangDialect
from trieline.learner.policy_server.foreign.staged_weights import StagedWeights
from trieline.learner.policy_server.foreign.untied_head import ties_head, untied_folder
from trieline.learner.policy_server.foreign.vllm import VllmDialect
from trieline.wire.addresses import MAX_IPC_PATH_BYTES, free_loopback_address
from trieline.wire.config import ModelConfig

log = logging.getLogger(__name__)

DIALECTS: dict[str, Callable[[Served], Dialect]] = {"vllm": VllmDialect, "sglang": SglangDialect}


def start_engine(config: PolicyServerConfig, model: ModelConfig, place: EnginePlace) -> "OwningEngine":
    """The engine, up and with the model's own weights.

    Raises:
        LearnerError: the model can't be used, or the engine can't.
    """
    folder = prepare_model(model.path)
    dtype = choose_dtype(model.dtype)
    served = Served(
        folder=folder,
        dtype=dtype_name(dtype),
        vocab_size=vocab_size_of(folder),
        config=config,
    )
    with ExitStack() as resources:
        own = new_folder("trieline-engine-")
        resources.callback(own.close)
        untied = not config.engine.urls and not torch.cuda.is_available() and ties_head(folder)
        if untied:
            served = dataclasses.replace(served, folder=untied_folder(folder, own.path / "model"))
        dialect: Dialect = DIALECTS[config.backend](served)
        url, socket, child = _where(dialect, served, place, own, resources)
        settings = config.engine
        shared = Path(settings.weights_folder).expanduser() if settings.weights_folder else None
        token = _token(settings.token_variable)

        def link() -> HttpLink:
            return HttpLink(
                dialect.kind,
                url,
                socket=socket,
                token=token,
                timeout_s=settings.request_timeout_s,
                max_bytes=settings.max_reply_bytes,
            )

        weights = StagedWeights(folder, own.path / "weights", shared, AdapterBase(folder, dtype))
        weights.untied = untied
        engine = OwningEngine(dialect, served, weights, make_link=link, child=child)
        resources.callback(engine.disconnect)
        engine.start(place.gives_up)
        engine.resources = resources.pop_all()
    return engine


class OwningEngine(ForeignEngine):
    """With all that was started for it."""

    resources: ExitStack

    def disconnect(self) -> None:
        """End the connections alone."""
        super().close()

    def close(self) -> None:
        self.resources.close()


def vocab_size_of(folder: Path) -> int:
    """Rows of the output weight, as the model's configuration says.

    Raises:
        ModelSourceError: it does not.
    """
    found = configured_vocab_size(folder)
    if found is None or found < 1:
        msg = f"{folder}/config.json: expected a vocab_size, got {found!r}"
        raise ModelSourceError(msg)
    return found


def _where(
    dialect: Dialect, served: Served, place: EnginePlace, own: OwnedFolder, resources: ExitStack
) -> tuple[str, str, ChildEngine | None]:
    """Its URL, or the path of its socket, and itself if it is started here."""
    settings = served.config.engine
    if settings.urls:
        if place.number >= len(settings.urls):
            msg = (
                f"expected one of policy_server.engine.urls for each address of links.generate, got "
                f"{len(settings.urls)} for policy server {place.number + 1}"
            )
            raise PolicyServerError(msg)
        return settings.urls[place.number], "", None
    url = free_loopback_address().replace("tcp://", "http://")
    socket = str(own.path / "engine.sock")
    if not dialect.has_unix_sockets or len(os.fsencode(socket)) > MAX_IPC_PATH_BYTES:
        socket = ""
    command = dialect.command(port=int(url.rpartition(":")[2]), socket=socket)
    child = ChildEngine(command, {**dialect.environment(), **settings.environment}, place.log_file)
    resources.callback(child.close)
    return url, socket, child


def _token(variable: str) -> str:
    if not variable:
        return ""
    if not (token := os.environ.get(variable, "")):
        msg = f"expected a token in the variable {variable} (policy_server.engine.token_variable), got none"
        raise PolicyServerError(msg)
    return token
