"""Read a recipe from a YAML file: its arms, overrides, and the paths relative to it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..editing.config import ToEditConfig
from ..errors import ConfigError, nearest
from ..files.secret import with_secrets
from ..files.yamls import load_yaml, read_fields, yaml_problem
from .conversion import convert
from .recipe import LONGEST_NAME, Arm, Data, Fields, Recipe

BUILT_IN: dict[str, Fields] = {
    "source": {"strategy": "none"},
    "toedit": {"strategy": "resample"},
    "random": {"strategy": "random"},
    "drop": {"strategy": "drop"},
    "tce": {"strategy": "none", "truncate": "self"},
}
ARM_KEYS = ("generations", "truncate", "select", "base", "control")  # in addition to the fields of ToEditConfig
BUNDLED = Path(__file__).parent / "recipes"
NO_RECIPES = ("accelerate", "tasks")  # folders in BUNDLED with files that recipes refer to, not recipes


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `name.of.field=value` overrides.

    path: a YAML file, a folder with a `recipe.yaml`, or, if neither exists, the name of a bundled recipe.

    Paths in a recipe are relative to its file if they exist there, otherwise to the working folder. Raises ConfigError.
    """
    file = _recipe_file(path)
    tree = read_fields(file, "kind: sft")
    folder = file.resolve().parent.name
    tree.setdefault("name", folder if file.stem == "recipe" else f"{folder}-{file.stem}")
    for override in overrides:
        _override(tree, override)
    tree = with_secrets(tree)
    tree["arms"] = read_arms(tree.get("arms", list(BUILT_IN)))
    recipe: Recipe = convert(Recipe, tree, "")
    for name, arm in recipe.arms.items():
        if arm.control and (arm.control not in recipe.arms or arm.control == name):
            others = [other for other in recipe.arms if other != name]
            raise ConfigError(
                f"arm {name!r}: control={arm.control!r} must be another arm{nearest(arm.control, others)}"
            )
    for name in (name for pair in (recipe.contrasts.pairs if recipe.contrasts else []) for name in pair):
        if name not in recipe.arms:
            raise ConfigError(f"contrasts.pairs: there is no arm {name!r}{nearest(name, recipe.arms)}")
    return _beside(recipe, file.parent)


def bundled_recipes() -> dict[str, Path]:
    """The files of the recipes bundled with the package, by name: `small`, `olmo-1b/cpt-math`."""
    files = [file for file in sorted(BUNDLED.glob("*/*.yaml")) if file.parent.name not in NO_RECIPES]
    return {file.parent.name if file.stem == "recipe" else f"{file.parent.name}/{file.stem}": file for file in files}


def _recipe_file(path: Path) -> Path:
    """The file that a path, or the name of a bundled recipe, refers to."""
    if any(len(part.encode()) > LONGEST_NAME for part in path.parts):
        raise ConfigError(f"a recipe's path has names of at most {LONGEST_NAME} bytes; give a YAML file or a folder")
    if path.is_file():
        return path
    if (path / "recipe.yaml").is_file():
        return path / "recipe.yaml"
    bundled = {} if path.exists() else bundled_recipes()
    name = path.as_posix().removesuffix(".yaml")
    if name in bundled:
        return bundled[name]
    found = sorted(map(str, path.glob("*.yaml"))) or [other for other in bundled if other.startswith(f"{name}/")]
    if found:
        raise ConfigError(f"{str(path)!r} holds {len(found)} recipes, name one: {', '.join(found)}")
    known = nearest(name, bundled) if bundled else ""
    raise ConfigError(f"there is no recipe {str(path)!r}{known}; give a YAML file, or a folder with a recipe.yaml")


def read_arms(given: object) -> Fields:
    """Arms as a mapping of name to settings, from names, mappings, or a list of both; built-in arms are filled in."""
    entries: list[tuple[str, Any]] = []
    for item in given if isinstance(given, list) else [given]:
        entries += (
            [(item, {})] if isinstance(item, str) else list(item.items()) if isinstance(item, dict) else [("", 0)]
        )
    arms: Fields = {}
    for name, changes in entries:
        if not name or not isinstance(changes or {}, dict):
            raise ConfigError(f"arms={given!r} must be a list of names, or a mapping of names to config fields")
        settings = {**BUILT_IN.get(name, {}), **(changes or {})}
        arm = {key: settings.pop(key) for key in ARM_KEYS if key in settings}
        known = [field.name for field in dataclasses.fields(ToEditConfig)]
        for key in settings:
            if key not in known:
                close = nearest(str(key), [*known, *ARM_KEYS])
                raise ConfigError(f"arm {name!r}: unknown key {key!r}{close}")
        arms[name] = {**arm, "fields": settings}
    return arms


def chosen_arms(recipe: Recipe, names: Sequence[str]) -> Recipe:
    """The recipe with only the named arms, its own or built-in ones."""
    arms = dict(recipe.arms)
    for name in names:
        if name not in arms and name not in BUILT_IN:
            raise ConfigError(f"no arm {name!r}{nearest(name, {*arms, *BUILT_IN})}")
        arms.setdefault(name, convert(Arm, read_arms(name)[name], f"arms.{name}"))
    return dataclasses.replace(recipe, arms={name: arms[name] for name in names or arms})


def _override(tree: Any, override: str) -> None:
    path, equals, value = override.partition("=")
    if not equals:  # anything but a plain name may be a token
        shown = f" {override!r}" if re.fullmatch(r"[a-z_.]+", override) else ""
        raise ConfigError(f"--set{shown} must read name=value, such as train.max_steps=100")
    *parents, last = path.split(".")
    for name in parents:
        try:
            tree = tree[int(name)] if isinstance(tree, list) else tree.setdefault(name, {})
        except (LookupError, ValueError, AttributeError) as error:
            raise ConfigError(f"--set {path!r}: the recipe has no {name!r} there") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"--set {path!r}: the recipe has no {last!r} there")
    try:
        tree[last] = load_yaml(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {path!r}: the value is not valid YAML: {yaml_problem(error)}") from error


def _beside(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with paths that exist next to its file made relative to the working folder."""

    def path(value: str | None) -> str | None:
        return str(folder / value) if value and (folder / value).exists() else value

    def data(source: Data) -> Data:
        return dataclasses.replace(source, source=path(source.source) or "")

    held_out = {name: data(source) for name, source in recipe.evaluate.held_out.items()}
    model = dataclasses.replace(recipe.model, id=path(recipe.model.id), tokenizer=path(recipe.model.tokenizer))
    return dataclasses.replace(
        recipe,
        model=model,
        prior=dataclasses.replace(recipe.prior, id=path(recipe.prior.id) or ""),
        data=[data(source) for source in recipe.data],
        accelerate=path(recipe.accelerate),
        evaluate=dataclasses.replace(
            recipe.evaluate, include_path=path(recipe.evaluate.include_path), held_out=held_out
        ),
    )
