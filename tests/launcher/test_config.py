"""Configuration: what is composed, and what a mistake is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trieline.config import Config, ConfigError, load_config, recipe_names, write_config
from trieline.learner.errors import ObjectiveError

BASE = """
[model]
path = "builtin:tiny"
[[envs]]
id = "trieline/Arithmetic-v0"
curriculum.levels = [0, 1]
"""


@pytest.fixture
def base(tmp_path: Path) -> str:
    path = tmp_path / "base.toml"
    path.write_text(BASE)
    return str(path)


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_is_whole(recipe: str) -> None:
    config = load_config([recipe])
    assert config.envs
    assert config.model.path


def test_later_files_and_settings_win(base: str, tmp_path: Path) -> None:
    later = tmp_path / "later.toml"
    later.write_text("[run]\nseed = 7\nname = 'later'\n")
    config = load_config(
        [base, str(later)], ["run.seed=8", "envs.0.curriculum.weight=2.5", "envs.0.curriculum.levels=[3]"]
    )
    assert (config.run.seed, config.run.name) == (8, "later")
    assert config.envs[0].curriculum.weight == 2.5
    assert config.envs[0].curriculum.levels == [3]


def test_bare_text_needs_no_quotes(base: str) -> None:
    assert load_config([base], ["run.name=my-run"]).run.name == "my-run"


def test_the_resolved_copy_is_the_same_configuration(base: str, tmp_path: Path) -> None:
    config = load_config([base], ["run.seed=3"])
    write_config(config, tmp_path / "config.toml")
    again = load_config([str(tmp_path / "config.toml")])
    assert isinstance(again, Config)
    assert again == config


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("run.sede=1", r"unknown key run\.sede\. Did you mean run\.seed\?"),
        ("learner.objective.clip_hihg=1", r"unknown key learner\.objective\.clip_hihg.*clip_high"),
        ("envs.0.kwarg=1", r"unknown key envs\.0\.kwarg.*envs\.0\.kwargs"),
        ("envs.0.weight=1", r"unknown key envs\.0\.weight\. Did you mean envs\.0\.curriculum\.weight\?"),
        (
            "envs.0.max_turns=1",
            r"unknown key envs\.0\.max_turns\. Did you mean envs\.0\.episode\.max_turns\?",
        ),
        ("learner.lr=1", r"unknown key learner\.lr\. Did you mean learner\.optimizer\.lr\?"),
        ("run.seed=abc", r"run\.seed: expected `int`, got `str`"),
        ("run.seed=-1", r"run\.seed: expected `int` >= 0"),
        ("envs.5.kwargs=1", r"expected an index from 0 to 0, got '5'"),
        ("envs.².kwargs=1", "expected an index from 0 to 0, got '²'"),
        ("run.seed.deeper.still=1", r"unknown key|is a value, not a section|expected"),
        ("actor.temperature=0.7", r"actor\.temperature and learner\.objective\.temperature to be equal"),
        (
            "envs.0.episode.max_context=8193",
            r"expected envs\.0\.episode\.max_context <= policy_server\.max_context, got 8193 and 8192",
        ),
        ("policy_server.kv_tokens=2047", r"max_context <= policy_server\.kv_tokens, got 2048 and 2047"),
        ("envs.0.episode.max_tokens=2048", r"expected envs\.0\.episode\.max_tokens < .*, got 2048 and 2048"),
        ("links.max_tree_tokens=16383", r"within 16383 tokens \(links\.max_tree_tokens\), got up to 16384"),
        (
            "learner.group_size=512",
            r"trees of 512 rollouts \(learner\.group_size .*links\.max_tree_tokens.* got up to 1048576",
        ),
        (
            "evaluation.attempts=512",
            r"trees of 512 rollouts \(evaluation\.attempts\).*links\.max_tree_tokens.* got up to 1048576",
        ),
        ("evaluation.attempts=129", r"expected learner\.batch_timeout_s > 2700 s.*\(3 x the time limit"),
        (
            "evaluation={episodes = 0, every = 5}",
            "expected every = 0 with episodes = 0, which measures nothing, got 5",
        ),
        ("links.max_message_bytes=262143", r"within 16383 tokens \(links\.max_message_bytes\)"),
        ("links.heartbeat_s=16", r"expected links\.peer_timeout_s >= 2 x links\.heartbeat_s, got 30 and 16"),
        ("links.peer_timeout_s=60", r"weights_timeout_s > links\.peer_timeout_s, got 60 and 60"),
        (
            "policy_server.in_flight_updates=false",
            r"expected learner\.weights_timeout_s > actor\.generate_timeout_s .* false, got 60 and 120",
        ),
        ("learner.batch_timeout_s=600", r"expected learner\.batch_timeout_s > 900 s.*envs\.0.*got 600"),
        ("actor.episodes=3", r"expected learner\.batch_timeout_s > 2700 s.*\(3 x the time limit.*got 2400"),
        ("actor.episode_timeout_s=2400", r"expected learner\.batch_timeout_s > 2400 s"),
        ("envs.0.episode.episode_timeout_s=2400", r"expected learner\.batch_timeout_s > 2400 s"),
        ("actor.turn_timeout_s=901", r"expected actor\.turn_timeout_s <= .* got 901 and 900 s"),
        ("envs.0.episode.turn_timeout_s=901", r"expected envs\.0\.episode\.turn_timeout_s <= "),
        ("actor.generate_timeout_s=901", r"expected actor\.generate_timeout_s <= .* got 901 and 900 s"),
        ("noequals", r"expected section\.key=value, got 'noequals'"),
        ("envs=[]", r"envs: expected at least one environment"),
    ],
)
def test_a_mistake_is_named(base: str, setting: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_config([base], [setting])


def test_limits_that_fit_each_other_pass(base: str) -> None:
    load_config([base], ["envs.0.episode.max_context=8192", "links.max_tree_tokens=65536"])
    load_config([base], ["actor.branching=random", "actor.branches=2"])
    load_config([base], ["policy_server.in_flight_updates=false", "learner.weights_timeout_s=121"])
    load_config([base], ["learner.replay=somewhere", "actor.episode_timeout_s=5000"])
    load_config([base], ["envs.0.episode.turn_timeout_s=5", "actor.turn_timeout_s=5000"])


def test_a_missing_recipe_suggests_one() -> None:
    with pytest.raises(ConfigError, match="Did you mean the recipe 'smollm2'"):
        load_config(["smolm2"])


def test_broken_toml_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("[run\nseed = 1")
    with pytest.raises(ConfigError, match=r"broken\.toml: expected TOML"):
        load_config([str(path)])


def test_arguments_of_the_chat_template_are_a_table_of_any_values(base: str, tmp_path: Path) -> None:
    later = tmp_path / "later.toml"
    later.write_text("[model.template_kwargs]\nenable_thinking = false\nhints = ['a', 2]\n")
    config = load_config([base, str(later)], ["model.template_kwargs.effort=high"])
    expected = {"enable_thinking": False, "hints": ["a", 2], "effort": "high"}
    assert config.model.template_kwargs == expected
    write_config(config, tmp_path / "copy.toml")
    assert load_config([str(tmp_path / "copy.toml")]) == config
    with pytest.raises(ConfigError, match=r"model: expected template_kwargs without .*, got messages, tools"):
        load_config([base], ["model.template_kwargs.tools=[]", "model.template_kwargs.messages=1"])


@pytest.mark.parametrize("coded", ["utf-8", "utf-8-sig"])
def test_files_are_utf_8_whatever_the_locale(tmp_path: Path, coded: str) -> None:
    path, copy = tmp_path / "own.toml", tmp_path / "copy.toml"
    path.write_text(BASE + "[run]\nname = 'größer'\n", encoding=coded)
    program = (
        "import sys; from pathlib import Path; from trieline.config import load_config, write_config\n"
        "config = load_config([sys.argv[1]]); write_config(config, Path(sys.argv[2]))\n"
        "assert config.run.name == 'gr\\u00f6\\u00dfer', ascii(config.run.name)\n"
        "assert load_config([sys.argv[2]]) == config"
    )
    # Without its guesses about locales, Python takes this one for ASCII.
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run(
        [sys.executable, "-c", program, str(path), str(copy)], env={**os.environ, **locale}, check=True
    )


def test_environments_take_lists_and_tables_as_arguments(base: str, tmp_path: Path) -> None:
    later = tmp_path / "later.toml"
    later.write_text("[[envs]]\nid = 'a/B-v0'\nkwargs = { tasks = ['c'], board = { rows = 6 } }\n")
    config = load_config([base, str(later)])
    assert config.envs[0].kwargs == {"tasks": ["c"], "board": {"rows": 6}}
    write_config(config, tmp_path / "copy.toml")
    assert load_config([str(tmp_path / "copy.toml")]) == config


VLLM = "policy_server.backend=vllm"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["policy_server.engine.top_logprobs=5"], "engine = .* has no effect with backend = 'own'"),
        ([VLLM, "policy_server.kv_tokens=100000"], "kv_tokens = 100000 has no effect with backend = 'vllm'"),
        (
            [VLLM, "policy_server.engine.urls=['http://h:1']", "policy_server.engine.command=['vllm']"],
            r"engine\.command has no effect with engine\.urls",
        ),
        (
            [VLLM, "policy_server.engine.urls=['http://h:1', 'http://h:2']"],
            r"one of policy_server\.engine\.urls for each address of links\.generate, got 2 for 1",
        ),
        (
            [VLLM, "policy_server.engine.token_variable=KEY"],
            "token_variable has no effect without engine.urls",
        ),
        (
            [VLLM, "learner.objective.entropy_scaling=token"],
            "entropy_scaling = 'sequence' or 'off' with policy_server.backend = 'vllm', got 'token'",
        ),
        (
            [VLLM, "learner.objective.entropy_scaling=sequence", "policy_server.engine.top_logprobs=0"],
            r"top_logprobs > 0 with learner\.objective\.entropy_scaling",
        ),
        (
            [VLLM, "actor.branching=entropy", "actor.branches=2", "policy_server.engine.top_logprobs=0"],
            r"top_logprobs > 0 with actor\.branching",
        ),
        (
            [VLLM, "policy_server.engine.request_timeout_s=120"],
            r"request_timeout_s < actor\.generate_timeout_s, got 120 and 120",
        ),
        ([VLLM, "learner.objective.clip_low=0.1"], "clip_low = 0.1 has no effect with loss = 'tis'"),
    ],
)
def test_what_an_engine_of_others_can_not_give_is_named(
    base: str, settings: list[str], expected: str
) -> None:
    def load() -> None:
        load_config([base], settings).learner.validate()

    with pytest.raises((ConfigError, ObjectiveError), match=expected):
        load()


def test_with_an_engine_of_others_the_default_loss_corrects(base: str, tmp_path: Path) -> None:
    assert load_config([base]).learner.objective.loss == "ppo_clip"
    config = load_config([base], [VLLM])
    assert config.learner.objective.loss == "tis"
    write_config(config, tmp_path / "config.toml")
    assert load_config([str(tmp_path / "config.toml")]) == config
    assert (
        load_config([base], [VLLM, "learner.objective.advantage=vtrace"]).learner.objective.loss
        == "vtrace_pg"
    )
    assert load_config([base], [VLLM, "learner.objective.loss=pg"]).learner.objective.loss == "pg"
    many = ["links.generate=['tcp://127.0.0.1:1', 'tcp://127.0.0.1:2']"]
    both = load_config([base], [VLLM, *many, "policy_server.engine.urls=['http://h:1', 'http://h:2']"])
    assert len(both.policy_server.engine.urls) == 2
