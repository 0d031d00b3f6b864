"""Configuration: what is composed, and what a mistake is told."""

from pathlib import Path

import pytest

from trieline.config import Config, ConfigError, load_config, recipe_names, write_config

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
        ("run.seed.deeper.still=1", r"unknown key|is a value, not a section|expected"),
        ("actor.temperature=0.7", r"actor\.temperature and learner\.objective\.temperature to be equal"),
        ("actor.top_p=0.9", r"expected actor\.top_p = 1"),
        ("noequals", r"expected section\.key=value, got 'noequals'"),
        ("envs=[]", r"envs: expected at least one environment"),
    ],
)
def test_a_mistake_is_named(base: str, setting: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_config([base], [setting])


def test_a_missing_recipe_suggests_one() -> None:
    with pytest.raises(ConfigError, match="Did you mean the recipe 'smollm2'"):
        load_config(["smolm2"])


def test_broken_toml_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("[run\nseed = 1")
    with pytest.raises(ConfigError, match=r"broken\.toml: expected TOML"):
        load_config([str(path)])
