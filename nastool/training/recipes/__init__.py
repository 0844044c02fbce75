"""Training recipes: how long and with what an architecture is trained. Each is a YAML file in this folder.

`recipe_text` gives a shipped file as it is, to be copied and changed; `load_recipe` reads a shipped one by
name or a user's own by path.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, TypeVar

from nastool.core import registry
from nastool.core.errors import InputError, hint
from nastool.core.files import path_of
from nastool.core.recipe import Recipe, Rule, Text
from nastool.core.yaml_files import read_yaml

_T = TypeVar("_T", Rule, Text, Recipe)


def recipe_names() -> tuple[str, ...]:
    """The names of the shipped recipes, sorted."""
    return tuple(sorted(f.name.removesuffix(".yaml") for f in files(__name__).iterdir() if f.name.endswith(".yaml")))


def recipe_text(name: str) -> str:
    """The YAML of a shipped recipe as it is, comments included. InputError where none has this name."""
    if name not in recipe_names():
        raise InputError(
            f"no recipe {name!r}; {hint(name, recipe_names())} (`nastool list recipes`; a file's path ends in .yaml)"
        )
    return files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def load_recipe(name_or_path: str) -> Recipe:
    """A shipped recipe by name, or one's own by path (anything with a / or ending in .yaml or .yml).

    What a file leaves out is as in the recipe `default`, but for steps: 0. InputError names file, key, value and
    allowed range.
    """
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        path = path_of(name_or_path)
        if not path.is_file():
            raise InputError(f"no recipe file {path}; `nastool list recipes` has those that need no file")
        return _parse(read_yaml(path), str(path))
    recipe_text(name_or_path)  # for its error
    return _parse(read_yaml(str(files(__name__).joinpath(f"{name_or_path}.yaml"))), name_or_path)


def default_recipe(data: str, prefix: str = "") -> str:
    """The name of the recipe that a data set is trained with by default.

    Args:
        data: as evaluators take it.
        prefix: "supernet-" for shared weights.

    Raises:
        InputError: there is no such data set.
    """
    return prefix + registry.task_for(data).recipe_for(data)


def _parse(values: Mapping[str, Any], source: str) -> Recipe:
    values = dict(values)
    try:
        if isinstance(section := values.get("optimizer"), Mapping):
            values["optimizer"] = _of(Rule, section, "optimizer: ")
        if isinstance(section := values.get("text"), Mapping):
            values["text"] = _of(Text, section, "text: ")
        return _of(Recipe, values)
    except InputError as error:
        raise InputError(f"recipe {source}: {error}") from error


def _of(cls: type[_T], values: Mapping[str, Any], where: str = "") -> _T:
    """An instance with these fields. InputError: it has no such field, or a value is out of its range."""
    fields = {field.name: str(field.type) for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise InputError(f"{where}no key {key!r}; {hint(key, fields)}")
    return cls(**{key: _number(value, fields[key]) for key, value in values.items()})


def _number(value: Any, kind: str) -> Any:
    """YAML 1.1 reads 5e-4 (without a dot) as text: take it as the number that is meant."""
    if kind != "float" or not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value
