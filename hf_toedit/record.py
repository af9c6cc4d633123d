"""Edits written into a row, the `toedit` column that says what happened to it, and the way back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import RowError
from .rendering import Place, find_path, get_at, place_name, put_at
from .splice import Edit, revert_ids, revert_text
from .stats import CELL_COUNTS, TokenStats


@dataclasses.dataclass(frozen=True)
class Cell:
    """What happened to one text of a row: a column, a pair or a conversation."""

    status: str
    stats: TokenStats
    edits: list[Edit]
    drifted: bool
    key: str = ""  # of its draws; none where it was skipped before any


class StructColumn(list[dict[str, Any]]):
    """A column of `toedit` structs that knows its Arrow type, also where no row of a batch has an edit."""

    def __arrow_array__(self, type: Any = None) -> Any:
        return typed(self)


def typed(structs: list[dict[str, Any]]) -> Any:
    """The Arrow array of `toedit` structs."""
    import pyarrow as pa

    counts = [(name, pa.int64()) for name in _count_names()]
    edit = pa.struct([("column", pa.string()), ("start", pa.int64()), ("old", pa.string()), ("new", pa.string())])
    cell = pa.struct([("key", pa.string()), *((name, pa.int64()) for name in CELL_COUNTS)])
    fields = [
        ("status", pa.string()),
        ("fingerprint", pa.string()),
        *counts,
        ("logprob_sum", pa.float64()),
        ("histogram", pa.list_(pa.int64())),
        ("drifted", pa.bool_()),
        ("cells", pa.list_(cell)),
        ("edits", pa.list_(edit)),
    ]
    return pa.array(list(structs), pa.struct(fields))


def _count_names() -> list[str]:
    return [field.name for field in dataclasses.fields(TokenStats) if field.name.startswith("num_")]


def row_status(cells: Sequence[Cell]) -> str:
    """The status of a row: `edited` if one of its texts was, else the first reason for which one was skipped."""
    statuses = [cell.status for cell in cells]
    skipped = [status for status in statuses if status.startswith("skipped")]
    return "edited" if "edited" in statuses else skipped[0] if skipped else "unchanged"


def to_struct(cells: Sequence[Cell], fingerprint: str | None = None) -> dict[str, Any]:
    """The `toedit` struct of a row: its columns' statistics added up, its columns' edits one after the other.

    fingerprint: of the edit that made it; None where the prior has no revision.
    """
    stats = sum((cell.stats for cell in cells), start=TokenStats())
    return {
        "status": row_status(cells),
        "fingerprint": fingerprint,
        **{name: getattr(stats, name) for name in _count_names()},
        "logprob_sum": stats.logprob_sum,
        "histogram": list(stats.histogram),
        "drifted": any(cell.drifted for cell in cells),
        "cells": [
            {"key": cell.key, **{name: getattr(cell.stats, name) for name in CELL_COUNTS}} for cell in cells if cell.key
        ],
        "edits": [dataclasses.asdict(edit) for cell in cells for edit in cell.edits],
    }


def write_back(
    row: dict[str, Any], places: Sequence[Place], edits: Sequence[Edit]
) -> tuple[dict[str, Any], list[Edit]]:
    """Make the edits of the rendered text in the row's own strings.

    Returns the new row and the edits with the name of their place (`output`, `messages[3].content`) and with `start`
    in characters of that string.
    """
    written = []
    for place in places:
        shift = place.offset - place.start
        own = [
            dataclasses.replace(edit, column=place_name(place.path), start=edit.start + shift)
            for edit in edits
            if place.start <= edit.start and edit.start + len(edit.old) <= place.end
        ]
        if own:
            string, parts, position = get_at(row, place.path), [], 0
            for edit in own:
                parts += [string[position : edit.start], edit.new]
                position = edit.start + len(edit.old)
            row = put_at(row, place.path, "".join([*parts, string[position:]]))
            written += own
    return row, written


def revert(row: Mapping[str, Any], stats_column: str = "toedit") -> dict[str, Any]:
    """The row before its edits, without the `toedit` column. Null there: the row was not edited.

    Raises RowError if the row changed after editing.
    """
    if stats_column not in row:
        raise RowError(f"can't revert: no column {stats_column!r} (columns: {', '.join(map(repr, row))})")
    original = {name: value for name, value in row.items() if name != stats_column}
    edits = [] if row[stats_column] is None else row[stats_column]["edits"]
    for column in dict.fromkeys(edit["column"] for edit in edits):
        own = [edit for edit in edits if edit["column"] == column]
        path = find_path(column, original)
        value = get_at(original, path)
        if column not in ("input_ids", "labels") and not isinstance(value, str):
            raise RowError(f"can't revert: {column} is no text; the row changed after editing")
        undo: Any = revert_ids if column in ("input_ids", "labels") else revert_text
        original = put_at(original, path, undo(value, own))
    return original
