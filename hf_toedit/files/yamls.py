"""YAML written by people: numbers as in YAML 1.2, keys that are unique strings, nothing that builds objects."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError

MOST_NODES = 100_000  # in a document, with aliases expanded
DEEPEST = 40
CORE = "tag:yaml.org,2002:"
KINDS = ("null", "bool", "int", "float", "str", "seq", "map")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without dates, sexagesimal and octal numbers, infinities, merge keys, and any tag but the core's."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        """Like PyYAML's, but keys must be strings and unique."""
        if not isinstance(node, yaml.MappingNode):
            raise _problem(node, "expected a mapping")
        known: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _problem(key_node, "found a key that is not a string: put it in quotes")
            if key in known:
                raise _problem(key_node, f"found {key!r} twice in one mapping")
            known.add(key)
        return yaml.constructor.BaseConstructor.construct_mapping(self, node, deep)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        value = float(super().construct_yaml_float(node))
        if not math.isfinite(value):
            raise _problem(node, "found a number that is too large")
        return value


_Loader.yaml_constructors = {CORE + kind: getattr(_Loader, f"construct_yaml_{kind}") for kind in KINDS} | {
    None: yaml.SafeLoader.construct_undefined
}
_Loader.yaml_implicit_resolvers = {
    first: kept
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    if (kept := [(tag, pattern) for tag, pattern in found if tag in (CORE + "bool", CORE + "null")])
}
for _kind, _pattern in (
    ("int", r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]+"),
    ("float", r"[-+]?((\d[\d_]*\.[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?|\d+[eE][-+]?\d+)"),  # 1e-5 too, as in YAML 1.2
):
    _Loader.add_implicit_resolver(CORE + _kind, re.compile(f"({_pattern})$"), list("-+.0123456789"))


def load_yaml(text: str) -> Any:
    """The value of a YAML document. Raises YAMLError, also if it is nested too deeply or too large when expanded."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _size(node, {})
        return loader.construct_document(node)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    except (ValueError, LookupError) as error:  # from a tag, as in `!!int x`, or a number with thousands of digits
        raise yaml.YAMLError("a value does not fit its tag, or is too long") from error
    finally:
        loader.dispose()


def read_yaml(file: Path) -> Any:
    """The value of a YAML file. Raises ConfigError, naming the file and what is wrong with it."""
    try:
        return load_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"can't read {str(file)!r}: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{str(file)!r} is not valid YAML: {yaml_problem(error)}") from error


def read_fields(file: Path, example: str) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError. example: one of its lines, for the message."""
    fields = read_yaml(file)
    if not isinstance(fields, dict):
        raise ConfigError(f"{str(file)!r} must hold `field: value` lines, such as `{example}`")
    return fields


def _size(node: yaml.Node, known: dict[int, tuple[int, int]], depth: int = 0) -> tuple[int, int]:
    """The number of nodes at and below this one, and of their levels, with each alias expanded."""
    if isinstance(node, yaml.ScalarNode):
        return 1, 1
    if id(node) not in known:
        if depth > DEEPEST:  # or it contains itself
            raise _problem(node, "it is nested too deeply")
        children = (
            [child for pair in node.value for child in pair] if isinstance(node, yaml.MappingNode) else node.value
        )
        below = [_size(child, known, depth + 1) for child in children]
        known[id(node)] = 1 + sum(size for size, _ in below), 1 + max((levels for _, levels in below), default=0)
    size, levels = known[id(node)]
    if levels > DEEPEST:
        raise _problem(node, "it is nested too deeply")
    if size > MOST_NODES:
        raise _problem(node, f"it holds more than {MOST_NODES:,} values once its aliases are written out")
    return size, levels


def _problem(node: yaml.Node, what: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, what, node.start_mark)


def yaml_problem(error: Exception) -> str:
    """What is wrong with a YAML text, and on which line, without quoting the line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        return (f"line {error.problem_mark.line + 1}: " if error.problem_mark else "") + error.problem
    return " ".join(str(error).split())
