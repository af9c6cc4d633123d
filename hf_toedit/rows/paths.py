"""Where a string is in a row: field paths, their names in the `toedit` column, and reading and writing at a path."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

from ..errors import RowError

FieldPath = tuple[str | int, ...]  # ("messages", 3, "content") leads to row["messages"][3]["content"]
PLACE_NAME = re.compile(r"(.+)\[(\d+)\]\.(content|value)(?:\[(\d+)\]\.text)?", re.DOTALL)


def place_name(path: FieldPath) -> str:
    """A path as the `toedit` column writes it: `output`, `messages[3].content`, `messages[3].content[0].text`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def find_path(name: str, columns: Container[str]) -> FieldPath:
    """The inverse of `place_name`, in a row with these columns."""
    match = None if name in columns else PLACE_NAME.fullmatch(name)
    if match is None:
        return (name,)
    column, i, key, j = match.groups()
    return (column, int(i), key) if j is None else (column, int(i), key, int(j), "text")


def path_of(edit: Mapping[str, Any], columns: Container[str]) -> FieldPath:
    """Where a row with these columns has the text or the ids that were edited.

    Edits of early versions have no `kind`: then their name decides.
    """
    kind = edit.get("kind")
    if kind is None:
        return find_path(edit["column"], columns)
    return find_path(edit["column"], ()) if kind == "message" else (edit["column"],)


def get_at(row: Any, path: FieldPath) -> Any:
    """The value at a path. Raises RowError where there is none."""
    value = row
    try:
        for key in path:
            value = value[key]
    except (LookupError, TypeError) as error:
        raise RowError(f"can't revert: the row has no {place_name(path)}: it changed after editing") from error
    return value


def put_at(row: Any, path: FieldPath, value: Any) -> Any:
    """A copy of a row with another value at a path. Everything beside the path is shared, not copied."""
    if not path:
        return value
    inner = put_at(row[path[0]], path[1:], value)
    if isinstance(row, Mapping):
        return {**row, path[0]: inner}
    changed = list(row)
    changed[int(path[0])] = inner
    return tuple(changed) if isinstance(row, tuple) else changed
