"""The policies of `trieline bench swe` that play: weights behind a policy server, models behind endpoints."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from trieline.actors.chat import ChatRenderer
from trieline.actors.chat_template import read_json
from trieline.actors.endpoint_policy import BYTES_PER_TOKEN, ByteChat, EndpointPolicy
from trieline.actors.policy import Policy
from trieline.common.folders import write_whole
from trieline.config import Config, ConfigError, config_to_dict, load_config
from trieline.launcher.bench_player import ENV_ID, BenchPlayer
from trieline.launcher.run_folder import RunFolder
from trieline.launcher.run_sockets import run_sockets, sweep_sockets
from trieline.launcher.supervisor import ProcessSpec, Supervisor
from trieline.launcher.swe_bench import Playing
from trieline.wire.chat_completions import ChatEndpoint
from trieline.wire.config import LinksConfig
from trieline.wire.errors import WireError
from trieline.wire.generate_link import PolicyClient
from trieline.wire.journal_header import BYTES_TOKENIZER, BYTES_VOCABULARY, JournalHeader, header_of
from trieline.wire.model_folder import tokenizer_folder

REQUESTS_PER_WORKER = 4
"""Threads for the requests of a worker's episodes, those that nobody waits for any more included."""

RECIPE = "swe-bench"
SETTINGS_FILE = "settings.json"
PLACES = ("data", "checkouts", "backend", "workspaces")
"""Of the environment's settings those that the command's own options say, and on which no figure depends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """What `run:SOURCE` names."""

    model: str
    """As `model.path` takes it."""
    run: RunFolder | None
    """Of the run that trained it; None: there is none."""
    name: str
    """For the predictions."""


def weights_of(source: str) -> Weights:
    """Those of a run folder (the newest), of one of its checkpoints, or of a model.

    Args:
        source: such a folder, or whatever else `model.path` takes.

    Raises:
        ConfigError: a folder is neither a run, nor a checkpoint, nor a model.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return Weights(model=source, run=None, name=source.rpartition(":")[2])
    folder = folder.resolve()
    if (folder / "config.toml").is_file():
        run = RunFolder.open(str(folder))
        newest = run.newest_checkpoint()
        if newest is None:
            return Weights(model=run.load_config().model.path, run=run, name=f"{folder.name}-untrained")
        folder = newest
    if (folder / "model" / "config.json").is_file():
        run_folder = folder.parents[1]
        trained = RunFolder(run_folder) if (run_folder / "config.toml").is_file() else None
        name = f"{run_folder.name}-{folder.name}" if trained else folder.name
        return Weights(model=str(folder / "model"), run=trained, name=name)
    if (folder / "config.json").is_file():
        return Weights(model=str(folder), run=None, name=folder.name)
    if (folder / "adapter").is_dir():
        msg = f"--policy run: {folder} holds adapters alone: `trieline merge {folder} FOLDER` makes a model"
        raise ConfigError(msg)
    msg = f"--policy run: expected a run folder, a checkpoint or a model folder, got {source!r}"
    raise ConfigError(msg)


def bench_config(
    weights: Weights | None, sources: list[str] | None, settings: list[str], kwargs: Mapping[str, Any]
) -> Config:
    """How episodes are played.

    Args:
        weights: of a served policy; None: there is an endpoint.
        sources: recipes and files, in place of the run's own configuration and of the recipe.
        settings: `a.b=c`, the last word.
        kwargs: of the environment: the data and where its repositories are.

    Raises:
        ConfigError: as `load_config`, or there is no environment `trieline/SWE-v0`.
    """
    if not sources:
        run = weights.run if weights is not None else None
        sources = [RECIPE] if run is None else [str(run.config)]
        if run is not None and not any(env.id == ENV_ID for env in run.load_config().envs):
            sources += [RECIPE]
    if weights is not None:
        settings = [f"model.path={json.dumps(weights.model)}", *settings]
    config = load_config(sources, settings)
    envs = [env for env in config.envs if env.id == ENV_ID]
    if not envs:
        msg = f"expected an environment {ENV_ID} in the configuration, got {[env.id for env in config.envs]}"
        raise ConfigError(msg)
    own = {name: v for name, v in envs[0].kwargs.items() if name not in PLACES}
    # The agent is told how many replies it has.
    env = msgspec.structs.replace(envs[0], kwargs={**own, "steps": envs[0].episode.max_turns, **kwargs})
    return msgspec.structs.replace(config, envs=[env], links=LinksConfig())


def served(
    config: Config, folder: Path, *, attempts: int, workers: int, say: Callable[[str], None]
) -> Playing:
    """Weights, with a policy server that lives as long as they are asked."""
    model = tokenizer_folder(config.model.path)
    renderer = ChatRenderer(
        model, system_prompt=config.actor.system_prompt, template_kwargs=config.model.template_kwargs
    )

    def prepare() -> None:
        _expect_settings(folder, _settings(config, "served"))
        # After a run that was killed there may be nothing left to play.
        sweep_sockets()

    @contextmanager
    def open_player(stop: threading.Event) -> Iterator[BenchPlayer]:
        with run_sockets(config.links) as links, ExitStack() as stack:
            run = RunFolder.attach(str(folder), config)
            run.write(msgspec.structs.replace(config, links=links))
            server = ProcessSpec(
                name="policy-server",
                arguments=("policy-server", "--config", str(run.config)),
                log_file=run.log("policy-server"),
                restart="always",
            )
            supervisor = Supervisor([server])
            stack.callback(supervisor.close)
            supervisor.start()
            say(f"policy server: {config.model.path}, log {server.log_file}")
            player = BenchPlayer(
                env=config.envs[0],
                actor=config.actor,
                renderer=renderer,
                link=ServedLink(
                    links=links,
                    startup_s=config.learner.startup_timeout_s,
                    max_context=config.envs[0].episode.max_context,
                ),
                folder=folder / "handed-in",
                attempts=attempts,
                workers=workers,
                watch=supervisor.check,
            )
            stack.callback(player.close)
            player.start(stop)
            yield player

    return Playing(
        open_player=open_player,
        header=header_of(model, max(renderer.vocab_size, _vocabulary(model))),
        prepare=prepare,
    )


def over_endpoint(
    config: Config, endpoint: ChatEndpoint, folder: Path, *, attempts: int, workers: int
) -> Playing:
    """A model behind an endpoint. Where the settings say tokens of context, `BYTES_PER_TOKEN` bytes count."""
    env = config.envs[0]
    episode = msgspec.structs.replace(env.episode, max_context=BYTES_PER_TOKEN * env.episode.max_context)

    @contextmanager
    def open_player(stop: threading.Event) -> Iterator[BenchPlayer]:
        with ExitStack() as stack:
            player = BenchPlayer(
                env=msgspec.structs.replace(env, episode=episode),
                actor=config.actor,
                renderer=ByteChat(system_prompt=config.actor.system_prompt),
                link=EndpointLink(endpoint=endpoint, workers=workers),
                folder=folder / "handed-in",
                attempts=attempts,
                workers=workers,
                watch=endpoint.expect_allowed,
            )
            stack.callback(player.close)
            player.start(stop)
            yield player

    return Playing(
        open_player=open_player,
        header=JournalHeader(vocab_size=BYTES_VOCABULARY, tokenizer=BYTES_TOKENIZER),
        prepare=partial(
            _expect_settings,
            folder,
            _settings(config, f"{endpoint.url} {endpoint.model}") | {"request": dict(endpoint.fields)},
        ),
    )


@dataclass(kw_only=True)
class ServedLink:
    """To the policy server."""

    links: LinksConfig
    startup_s: float
    max_context: int
    """Tokens of an episode's requests, at most."""
    _client: PolicyClient | None = field(default=None, init=False)

    async def start(self) -> None:
        self._client = PolicyClient(self.links)
        await self._client.start()
        status = await self._client.status(timeout_s=self.startup_s)
        if self.max_context > status.max_context:
            msg = (
                f"expected envs.0.episode.max_context of at most {status.max_context}, which the policy "
                f"server takes of this model, got {self.max_context}"
            )
            raise WireError(msg)

    def for_episode(self) -> Policy:
        assert self._client is not None, "started"
        return self._client

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


@dataclass(kw_only=True)
class EndpointLink:
    """To an endpoint."""

    endpoint: ChatEndpoint
    workers: int
    _threads: ThreadPoolExecutor | None = field(default=None, init=False)

    async def start(self) -> None:
        # The request of an episode that was cut keeps its thread till its own time limit.
        self._threads = ThreadPoolExecutor(REQUESTS_PER_WORKER * self.workers, thread_name_prefix="request")

    def for_episode(self) -> Policy:
        assert self._threads is not None, "started"
        return EndpointPolicy(endpoint=self.endpoint, threads=self._threads)

    async def close(self) -> None:
        self.endpoint.close()
        if self._threads is not None:
            self._threads.shutdown()


def _settings(config: Config, policy: str) -> dict[str, Any]:
    """What an episode depends on."""
    env = config.envs[0]
    kept = {name: value for name, value in env.kwargs.items() if name not in PLACES}
    config = msgspec.structs.replace(config, envs=[msgspec.structs.replace(env, kwargs=kept)])
    plain = config_to_dict(config)
    return {"policy": policy, **{part: plain[part] for part in ("model", "envs", "actor")}}


def _expect_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Keep them, or raise ConfigError if episodes were played with others: their figures can't be mixed."""
    path = folder / SETTINGS_FILE
    if not path.exists():
        if others := [name for name in ("config.toml", "journal") if (folder / name).exists()]:
            msg = f"--output: expected a new folder or that of a benchmark, got {folder} with {others}"
            raise ConfigError(msg)
        write_whole(path, json.dumps(settings, indent=1).encode())
        return
    try:
        kept = json.loads(path.read_bytes())
    except ValueError as error:
        msg = f"expected {path} as it was written, got another: {error}"
        raise ConfigError(msg) from error
    before, now = dict(_flat("", kept)), dict(_flat("", settings))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            msg = (
                f"expected the settings of the run in {folder}: {name} = {before.get(name)!r}, got "
                f"{now.get(name)!r}; give them again, or another --output"
            )
            raise ConfigError(msg)


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{path}.{key}" if path else key, inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _flat(f"{path}.{number}", inner)
    else:
        yield path, value


def _vocabulary(model: Path) -> int:
    """Of the model in a folder: it may be able to sample more than its tokenizer has."""
    described = read_json(model / "config.json")
    size = described.get("text_config", described).get("vocab_size", 0)
    return size if isinstance(size, int) else 0
