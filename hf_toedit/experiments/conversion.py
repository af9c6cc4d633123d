"""Convert values from a YAML file to the types of dataclass fields, or raise an error that names the place."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..errors import ConfigError, nearest


def convert(kind: Any, value: Any, where: str) -> Any:
    """Convert a YAML value to a type: a dataclass (unknown keys are errors), list, mapping, choice, number or string.

    A single value can stand for a list of one, and a string for a dataclass with that string as its first field.
    Raises ConfigError, naming the place.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _convert_fields(kind, value, where)
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is list:
        values = value if isinstance(value, list) else [value]
        return [convert(arguments[0], item, f"{where}.{i}") for i, item in enumerate(values)]
    if origin is dict and isinstance(value, dict):
        return {str(name): convert(arguments[1], item, f"{where}.{name}") for name, item in value.items()}
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where}={value!r} is unknown{nearest(str(value), map(str, arguments))}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    is_of_kind = not isinstance(kind, type) or (
        isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    )
    if origin is dict or not is_of_kind:
        name = {
            "dict": "a mapping",
            "int": "an integer",
            "float": "a number",
            "str": "a string",
            "bool": "true or false",
        }
        what = name.get((origin or kind).__name__, f"of type {kind}")
        raise ConfigError(f"{where}={value!r} must be {what}")
    return value


def _convert_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if type(value) in kinds:  # "all-linear", where a list or a string is allowed, is not a list of one
        return value
    first: ConfigError | None = None
    for kind in (kind for kind in kinds if kind is not type(None)):
        try:
            return convert(kind, value, where)
        except ConfigError as error:
            first = first or error
    raise first or ConfigError(f"{where}={value!r} must be empty")


def _convert_fields(kind: Any, value: Any, where: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if isinstance(value, str):
        value = {next(iter(fields)): value}
    if not isinstance(value, dict):
        raise ConfigError(f"{where or 'the recipe'}={value!r} must be a mapping with some of {', '.join(fields)}")
    checked = convert_keys(kind, value, where)
    for name, field in fields.items():
        is_needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if is_needed and name not in checked:
            raise ConfigError(f"the recipe has no {where + '.' if where else ''}{name}: add it")
    return kind(**checked)


def convert_keys(kind: Any, value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The mapping with its values converted to the types of a dataclass's fields; an unknown key is an error."""
    hints = get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind) if field.init]
    prefix = f"{where}." if where else ""
    for name in value:
        if name not in known:
            close = nearest(str(name), known) or f"; see the fields of {kind.__name__}"
            raise ConfigError(f"unknown key {prefix + str(name)!r}{close}")
    return {name: convert(hints[name], item, prefix + name) for name, item in value.items()}
