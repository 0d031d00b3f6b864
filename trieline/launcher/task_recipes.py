"""What `trieline tasks make` makes tasks of: packages, each file of theirs with its hash. Written as TOML."""

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import msgspec

from trieline.config import ConfigError
from trieline.envs.swe.task_making.package import Package

RECIPES = "tasks"
"""The folder in `trieline.recipes` with those that ship with the package."""
Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?$")]
Version = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._!+-]*$")]
Inside = Annotated[str, msgspec.Meta(pattern=r"^(?!/)(?!.*\.\.)[^\x00-\x1f:]+$")]
"""A path below the top of a package."""


class Mutations(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tasks out of one version by mistakes that are made in it."""

    version: Version
    count: Count
    """Tasks wanted."""
    attempts: Count | None = None
    """Mutations tried at most. None: twelve for each task."""


class Release(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task, or several, out of two versions that follow each other."""

    before: Version
    after: Version
    split: bool = False
    """Into one task for each fix that the tests tell from the others; the whole is none then."""


class History(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tasks out of the commits of a git checkout on this machine, the latest first."""

    checkout: str
    """Its folder; relative to that of the recipe."""
    count: Count
    commits: Count = 1_000
    """Looked at, at most."""


class PackageRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One package."""

    name: Name
    repo: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$")]
    """`owner/name`."""
    license: str
    """As SPDX writes it: for people, who look before they train on it."""
    sources: list[Inside]
    tests: list[Inside]
    import_paths: tuple[Inside, ...] = (".",)
    arguments: list[str] = []
    """For pytest."""
    requires: list[str] = []
    """`name==version` of wheels that its tests need beside those of all packages."""
    sdists: dict[Version, Sha256] = {}
    """The source distributions that are used, by version."""
    mutations: Mutations | None = None
    releases: list[Release] = []
    history: History | None = None

    @property
    def package(self) -> Package:
        return Package(
            name=self.name,
            repo=self.repo,
            sources=tuple(self.sources),
            tests=tuple(self.tests),
            import_paths=self.import_paths,
            arguments=tuple(self.arguments),
        )


class TaskRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a run needs to know: the same recipe gives the same candidates in the same order."""

    runner: list[str]
    """`name==version` of pytest and what it needs."""
    wheels: dict[str, Sha256]
    """The hash of each wheel that is named, of pure Python, by `name==version`."""
    packages: list[PackageRecipe]
    seed: int = 0


def task_recipe_names() -> list[str]:
    """Those that ship with the package."""
    folder = files("trieline.recipes") / RECIPES
    return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml"))


def read_task_recipe(source: str) -> TaskRecipe:
    """A recipe that ships with the package, by name, or a TOML file.

    Raises:
        ConfigError: there is none, or it can't be used; names the key.
        OSError: the file can't be read; names it.
    """
    if source in task_recipe_names():
        text = (files("trieline.recipes") / RECIPES / f"{source}.toml").read_text()
    elif source.endswith(".toml"):
        text = Path(source).read_text()
    else:
        msg = f"--recipe: expected {', '.join(task_recipe_names())} or a .toml file, got {source!r}"
        raise ConfigError(msg)
    try:
        tree: dict[str, Any] = tomllib.loads(text)
        recipe = msgspec.convert(tree, TaskRecipe)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        msg = f"{source}: {error}"
        raise ConfigError(msg) from None
    _check(source, recipe)
    return recipe


def _check(source: str, recipe: TaskRecipe) -> None:
    for package in recipe.packages:
        versions = [version for pair in package.releases for version in (pair.before, pair.after)]
        versions += [package.mutations.version] if package.mutations else []
        missing = [name for name in (*recipe.runner, *package.requires) if name not in recipe.wheels]
        missing += [version for version in versions if version not in package.sdists]
        if missing:
            msg = f"{source}: {package.name}: expected hashes in `wheels` and `sdists`, got none of {missing}"
            raise ConfigError(msg)
    names = [package.name for package in recipe.packages]
    if len(set(names)) != len(names) or not names:
        msg = f"{source}: expected packages, each once, got {names}"
        raise ConfigError(msg)
