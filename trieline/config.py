"""Composing a configuration: TOML files in order, then `--set a.b=c`, checked against the typed records.

Each process has its own record beside its code; this page only puts them together. People write TOML; the
resolved copy of a run is written to its folder.
"""

import difflib
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
import tomli_w

from trieline.actors.config import ActorConfig
from trieline.actors.gateway.config import GatewayConfig
from trieline.common.errors import TrielineError
from trieline.learner.config import EvaluationConfig, LearnerConfig
from trieline.learner.policy_server.config import PolicyServerConfig
from trieline.learner.policy_server.errors import PolicyServerError
from trieline.wire.config import EnvConfig, LinksConfig, ModelConfig

TOKEN_BYTES = 16
"""Of a token in a tree as it travels: id, log-probability, entropy and version."""


class ConfigError(TrielineError):
    """A configuration that can't be used. The message names the key, what was expected and what came."""


class RunConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What belongs to the whole run."""

    name: str = "run"
    """First part of the run folder's name."""
    folder: str = "runs"
    """Where run folders are made."""
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    actors: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    """Actor programs that `trieline train` starts; each forks `actor.processes` workers."""
    trackers: tuple[Literal["wandb", "trackio", "mlflow"], ...] = ()
    """Where the figures go beside `metrics.jsonl` and TensorBoard: Weights & Biases, Trackio, MLflow. Each is
    an extra of its name."""
    project: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,100}$")] = "trieline"
    """What the run belongs to there; MLflow calls it an experiment."""

    def __post_init__(self) -> None:
        if len(set(self.trackers)) != len(self.trackers):
            msg = f"expected each of trackers once, got {', '.join(self.trackers)}"
            raise ValueError(msg)


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything. Each process reads the same files and takes its part."""

    model: ModelConfig
    envs: list[EnvConfig]
    run: RunConfig = RunConfig()
    links: LinksConfig = LinksConfig()
    actor: ActorConfig = ActorConfig()
    gateway: GatewayConfig = GatewayConfig()
    policy_server: PolicyServerConfig = PolicyServerConfig()
    learner: LearnerConfig = LearnerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


def recipe_names() -> list[str]:
    """The recipes that ship with the package."""
    return sorted(
        p.name.removesuffix(".toml") for p in files("trieline.recipes").iterdir() if p.name.endswith(".toml")
    )


def load_config(sources: Iterable[str], settings: Iterable[str] = ()) -> Config:
    """Merge recipes and TOML files, the later winning, then apply `a.b=c` settings.

    Raises:
        ConfigError: a file is missing or no TOML, a key is unknown, or a value is of the wrong type or range.
    """
    tree: dict[str, Any] = {}
    for source in sources:
        _merge(tree, _read(source))
    for setting in settings:
        _apply_setting(tree, setting)
    return config_from_dict(tree)


def config_from_dict(tree: Mapping[str, Any]) -> Config:
    """Check a nested mapping against the records."""
    _check_keys(tree, Config, "")
    try:
        config = msgspec.convert(_with_engine_defaults(tree), Config)
    except msgspec.ValidationError as error:
        raise ConfigError(_dotted(str(error))) from None
    if not config.envs:
        msg = "envs: expected at least one environment, got an empty list"
        raise ConfigError(msg)
    _check_both_ends(config)
    return config


def _with_engine_defaults(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A policy server of others computes other log-probabilities: the default loss is one that corrects.

    `tis`, or `vtrace_pg` with V-trace's advantage: both weigh by the ratio of recomputed to recorded ones.
    """
    merged: dict[str, Any] = {}
    _merge(merged, tree)
    server, learner = merged.get("policy_server", {}), merged.setdefault("learner", {})
    if not isinstance(server, dict) or server.get("backend", "own") == "own" or not isinstance(learner, dict):
        return merged
    objective = learner.setdefault("objective", {})
    if isinstance(objective, dict):
        objective.setdefault("loss", "vtrace_pg" if objective.get("advantage") == "vtrace" else "tis")
    return merged


def _check_both_ends(config: Config) -> None:
    """What no single process can see. Raises ConfigError for the first contradiction."""
    contradictions = [
        *_sampling_contradictions(config),
        *_engine_contradictions(config),
        *_link_contradictions(config),
        *(found for number in range(len(config.envs)) for found in _env_contradictions(config, number)),
    ]
    if contradictions:
        raise ConfigError(contradictions[0])


def _sampling_contradictions(config: Config) -> Iterator[str]:
    """Actors must sample from what the learner computes."""
    actor, objective = config.actor, config.learner.objective
    if actor.temperature != objective.temperature:
        yield (
            "expected actor.temperature and learner.objective.temperature to be equal, got "
            f"{actor.temperature:g} and {objective.temperature:g}: the learner would compute other "
            "probabilities than were sampled from"
        )


def _engine_contradictions(config: Config) -> Iterator[str]:
    """What an engine of others can't give."""
    server, objective = config.policy_server, config.learner.objective
    try:
        server.validate()
    except PolicyServerError as error:
        yield str(error)
    if server.backend == "own":
        return
    if server.engine.urls and len(server.engine.urls) != (wanted := len(config.links.generate_addresses)):
        yield (
            f"expected one of policy_server.engine.urls for each address of links.generate, got "
            f"{len(server.engine.urls)} for {wanted}"
        )
    if server.engine.request_timeout_s >= config.actor.generate_timeout_s:
        yield (
            "expected policy_server.engine.request_timeout_s < actor.generate_timeout_s, got "
            f"{server.engine.request_timeout_s:g} and {config.actor.generate_timeout_s:g}: actors would give "
            "up before another server is asked"
        )
    if objective.entropy_scaling == "token":
        yield (
            f"expected learner.objective.entropy_scaling = 'sequence' or 'off' with policy_server.backend = "
            f"{server.backend!r}, got 'token': entropies are estimates there, whose errors of single tokens "
            "would scale their advantages"
        )
    needs_entropies = {
        "learner.objective.entropy_scaling": objective.entropy_scaling == "sequence",
        "actor.branching": config.actor.branching == "entropy",
    }
    for name, needs in needs_entropies.items():
        if needs and server.engine.top_logprobs == 0:
            yield f"expected policy_server.engine.top_logprobs > 0 with {name}, which reads entropies, got 0"


def _link_contradictions(config: Config) -> Iterator[str]:
    links, learner = config.links, config.learner
    if links.peer_timeout_s < 2 * links.heartbeat_s:
        yield (
            f"expected links.peer_timeout_s >= 2 x links.heartbeat_s, got {links.peer_timeout_s:g} and "
            f"{links.heartbeat_s:g}: a peer would count as lost between two heartbeats"
        )
    if learner.weights_timeout_s <= links.peer_timeout_s:
        yield (
            f"expected learner.weights_timeout_s > links.peer_timeout_s, got {learner.weights_timeout_s:g} "
            f"and {links.peer_timeout_s:g}: a policy server that is gone would end the run before it counts "
            "as lost"
        )
    longest = config.actor.generate_timeout_s
    for name in () if config.policy_server.in_flight_updates else ("weights_timeout_s", "startup_timeout_s"):
        if (patience := getattr(learner, name)) <= longest:
            yield (
                f"expected learner.{name} > actor.generate_timeout_s with policy_server.in_flight_updates = "
                f"false, got {patience:g} and {longest:g}: new weights wait for the longest reply, and the "
                "learner would give up before"
            )


def _env_contradictions(config: Config, number: int) -> Iterator[str]:
    """What an episode of one environment may take, against what the processes between allow."""
    actor, learner, links, server = config.actor, config.learner, config.links, config.policy_server
    episode, at = config.envs[number].episode, f"envs.{number}.episode"
    if episode.max_tokens >= episode.max_context:
        yield (
            f"expected {at}.max_tokens < {at}.max_context, got {episode.max_tokens} and "
            f"{episode.max_context}: no turn could have so many"
        )
    for name in ("max_context", "kv_tokens") if server.backend == "own" else ("max_context",):
        if episode.max_context > getattr(server, name):
            yield (
                f"expected {at}.max_context <= policy_server.{name}, got {episode.max_context} and "
                f"{getattr(server, name)}: the policy server would refuse every long request"
            )
    attempts = config.evaluation.attempts
    rollouts, named = max(
        (learner.group_size + actor.branches, "learner.group_size + actor.branches"),
        (attempts, "evaluation.attempts"),
    )
    count = config.envs[number].windows
    largest = rollouts * episode.max_context * count
    windows = f" and max_windows = {count}" if count > 1 else ""
    for name, most in (
        ("max_tree_tokens", links.max_tree_tokens),
        ("max_message_bytes", links.max_message_bytes // TOKEN_BYTES),
    ):
        if largest > most:
            yield (
                f"expected trees of {rollouts} rollouts ({named}) with {at}.max_context = "
                f"{episode.max_context}{windows} to stay within {most} tokens (links.{name}), got up to "
                f"{largest}: the learner would reject them"
            )
    whole, limits = _episode_limits(config, number)
    for name, seconds in limits.items():
        if seconds > whole:
            yield (
                f"expected {name} <= the time limit of an episode of envs.{number}, got {seconds:g} and "
                f"{whole:g} s: it would never be reached"
            )
    # An actor plays a group in waves of its slots, and the forks after it.
    waves = max(
        math.ceil(learner.group_size / actor.episodes) + (actor.branches > 0),
        math.ceil(attempts / actor.episodes),
    )
    if learner.replay is None and learner.batch_timeout_s <= waves * whole:
        yield (
            f"expected learner.batch_timeout_s > {waves * whole:g} s, which the slowest group of "
            f"envs.{number} may take ({waves} x the time limit of an episode, {whole:g} s), got "
            f"{learner.batch_timeout_s:g}: the learner would give up while actors play"
        )


def _episode_limits(config: Config, number: int) -> tuple[float, dict[str, float]]:
    """The time limit of an episode, and those within it by the names of their settings."""
    actor, own = config.actor, config.envs[number].episode
    turn = ("actor.turn_timeout_s", actor.turn_timeout_s)
    if own.turn_timeout_s is not None:
        turn = (f"envs.{number}.episode.turn_timeout_s", own.turn_timeout_s)
    whole = own.episode_timeout_s or actor.episode_timeout_s
    return whole, dict([turn, ("actor.generate_timeout_s", actor.generate_timeout_s)])


def config_to_dict(config: Config) -> dict[str, Any]:
    """The resolved configuration as plain values, `None` left out (TOML has no null)."""
    plain: dict[str, Any] = _without_none(msgspec.to_builtins(config))
    return plain


def write_config(config: Config, path: Path) -> None:
    """Write the resolved configuration as TOML; `load_config([path])` gives it back."""
    path.write_text(tomli_w.dumps(config_to_dict(config)), encoding="utf-8")


def _read(source: str) -> dict[str, Any]:
    if source in recipe_names():
        return tomllib.loads((files("trieline.recipes") / f"{source}.toml").read_text(encoding="utf-8"))
    path = Path(source)
    if not path.is_file():
        near = difflib.get_close_matches(source, recipe_names(), 1)
        hint = f" Did you mean the recipe {near[0]!r}?" if near else f" Recipes: {', '.join(recipe_names())}."
        msg = f"expected a recipe or a TOML file, got {source!r}, which is neither.{hint}"
        raise ConfigError(msg)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{source}: expected TOML, got: {error}"
        raise ConfigError(msg) from None


def _merge(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def _apply_setting(tree: dict[str, Any], setting: str) -> None:
    path, equals, text = setting.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        msg = f"--set: expected section.key=value, got {setting!r}"
        raise ConfigError(msg)
    node: Any = tree
    for depth, key in enumerate(keys[:-1]):
        if isinstance(node, list):
            node = _item(node, key, ".".join(keys[: depth + 1]))
        else:
            node = node.setdefault(key, {})
        if not isinstance(node, dict | list):
            msg = f"--set {path}: {'.'.join(keys[: depth + 1])} is a value, not a section"
            raise ConfigError(msg)
    if isinstance(node, list):
        _item(node, keys[-1], path)
        node[int(keys[-1])] = setting_value(text)
    else:
        node[keys[-1]] = setting_value(text)


def _item(items: list[Any], key: str, path: str) -> Any:
    if not key.isdecimal() or int(key) >= len(items):
        msg = f"--set {path}: expected an index from 0 to {len(items) - 1}, got {key!r}"
        raise ConfigError(msg)
    return items[int(key)]


def setting_value(text: str) -> Any:
    """A TOML value if it parses as one, else the bare text (so that quotes may be left out)."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _check_keys(tree: Mapping[str, Any], record: type[msgspec.Struct], prefix: str) -> None:
    """Name an unknown key by its dotted path, with the closest known one."""
    known = {field.name: field.type for field in msgspec.structs.fields(record)}
    for key, value in tree.items():
        if key not in known:
            parts = {
                f"{part}.{field.name}"
                for part, annotation in known.items()
                if get_origin(annotation) is not list
                for inner in _records_in(annotation)
                for field in msgspec.structs.fields(inner)
            }
            near = [path for path in sorted(parts) if path.endswith(f".{key}")]
            near = near or difflib.get_close_matches(key, known, 1, cutoff=0.5)
            hint = f"Did you mean {prefix}{near[0]}?" if near else f"Known here: {', '.join(sorted(known))}."
            msg = f"unknown key {prefix}{key}. {hint}"
            raise ConfigError(msg)
        for inner in _records_in(known[key]):
            items = value if isinstance(value, list) else [value]
            for index, item in enumerate(items):
                if isinstance(item, Mapping):
                    at = f"{prefix}{key}.{index}." if isinstance(value, list) else f"{prefix}{key}."
                    _check_keys(item, inner, at)


def _records_in(annotation: Any) -> list[type[msgspec.Struct]]:
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return [annotation]
    return [record for part in get_args(annotation) for record in _records_in(part)]


def _dotted(message: str) -> str:
    """msgspec writes `Expected `int`, got `str` - at `$.run.seed``; people know keys as run.seed."""
    what, at, where = message.rpartition(" - at `$.")
    return f"{where.rstrip('`')}: {what[:1].lower()}{what[1:]}" if at else message


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_without_none(v) for v in value]
    return value
