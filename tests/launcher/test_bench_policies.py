"""What `--policy run:` names, and how it is then played."""

from pathlib import Path

import pytest

from trieline.config import ConfigError, config_to_dict, load_config, write_config
from trieline.launcher.bench_policies import bench_config, weights_of

HERE = {"data": "rows.jsonl", "checkouts": "checkouts", "backend": "bubblewrap"}


def make_run(folder: Path, *steps: int, recipe: str = "swe-mini") -> Path:
    folder.mkdir()
    write_config(load_config([recipe]), folder / "config.toml")
    for step in steps:
        model = folder / "checkpoints" / f"step_{step}" / "model"
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}")
    return folder


def test_the_newest_weights_of_a_run_and_those_of_a_step(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine", 2, 10, 9)
    (run / "checkpoints" / ".step_11-x").mkdir()
    found = weights_of(str(run))
    assert (found.model, found.name) == (str(run / "checkpoints/step_10/model"), "mine-step_10")
    assert found.run is not None
    earlier = weights_of(str(run / "checkpoints" / "step_2"))
    assert (earlier.model, earlier.name) == (str(run / "checkpoints/step_2/model"), "mine-step_2")
    assert earlier.run == found.run
    model = weights_of(earlier.model)
    assert (model.model, model.name, model.run) == (earlier.model, "model", None)


def test_a_run_without_checkpoints_has_its_first_weights(tmp_path: Path) -> None:
    found = weights_of(str(make_run(tmp_path / "new")))
    assert (found.model, found.name) == ("builtin:smollm2-135m-instruct", "new-untrained")


def test_names_are_left_to_who_knows_models() -> None:
    assert (weights_of("builtin:tiny").model, weights_of("builtin:tiny").name) == ("builtin:tiny", "tiny")
    assert weights_of("owner/model").name == "owner/model"


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a run folder, a checkpoint or a model folder, got"):
        weights_of(str(tmp_path))


def test_a_run_is_played_as_it_was_trained(tmp_path: Path) -> None:
    config = bench_config(weights_of(str(make_run(tmp_path / "mine", 1))), None, [], HERE)
    (env,) = config.envs
    assert config.model.path == str(tmp_path / "mine/checkpoints/step_1/model")
    assert env.episode.max_turns == 8
    assert env.kwargs == {
        "partial_credit": True, "output_bytes": 1200, "command_seconds": 20, "test_seconds": 120, "steps": 8,
        **HERE,
    }  # fmt: skip


def test_one_of_other_environments_as_the_recipe_says(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine", 1, recipe="repair")
    config = bench_config(weights_of(str(run)), None, ["envs.0.episode.max_turns=7"], HERE)
    recipe = load_config(["swe-bench"])
    assert config.model.path == str(run / "checkpoints/step_1/model")
    assert config.envs[0].episode.max_tokens == recipe.envs[0].episode.max_tokens
    assert config.envs[0].kwargs["steps"] == config.envs[0].episode.max_turns == 7


def test_other_sources_take_the_place_of_the_runs_own(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine", 1)
    assert bench_config(weights_of(str(run)), ["swe-bench"], [], HERE).envs[0].episode.max_turns == 50
    with pytest.raises(ConfigError, match="expected an environment trieline/SWE-v0 in the configuration"):
        bench_config(weights_of(str(run)), ["smollm2"], [], HERE)
    assert config_to_dict(bench_config(None, None, [], HERE))["actor"]["episode_timeout_s"] == 7200
