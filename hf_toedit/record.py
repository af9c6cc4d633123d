"""Edits written into a row, the `toedit` column that says what happened to it, and the way back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .errors import RowError
from .rendering import Path, Place, get_at, path_of, place_name, put_at
from .splice import Edit, revert_ids, revert_text
from .stats import CELL_COUNTS, TokenStats, check_column_name
from .types import IntArray


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
    strings = [(name, pa.string()) for name in ("old", "new", "kind")]
    edit = pa.struct([("column", pa.string()), ("start", pa.int64()), *strings])
    cell = pa.struct([("key", pa.string()), *((name, pa.int64()) for name in CELL_COUNTS)])
    fields = [
        ("status", pa.string()),
        ("fingerprint", pa.string()),
        *counts,
        ("logprob_sum", pa.float64()),
        ("histogram", pa.list_(pa.int64())),
        ("drifted", pa.bool_()),
        ("cells", pa.list_(cell)),
        ("digest", pa.string()),
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


def to_struct(cells: Sequence[Cell], row: Mapping[str, Any], fingerprint: str | None = None) -> dict[str, Any]:
    """The `toedit` struct of a row: its columns' statistics added up, its columns' edits one after the other.

    row: the row before its edits. fingerprint: of the edit that made it; None where the prior has no revision.
    """
    stats = sum((cell.stats for cell in cells), start=TokenStats())
    edits = [dataclasses.asdict(edit) for cell in cells for edit in cell.edits]
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
        "digest": digest_of(row, edits),
        "edits": edits,
    }


def digest_of(row: Mapping[str, Any], edits: Sequence[Mapping[str, Any]]) -> str | None:
    """16 hex characters of the texts and ids, each whole, that the edits name; None without edits.

    Of the original row it is kept in the `toedit` struct, so that `revert` can prove what it gives back.
    """
    if not edits:
        return None
    digest = hashlib.blake2b(digest_size=8)
    for path in dict.fromkeys(path_of(edit, row) for edit in edits):
        value = _text_or_ids(get_at(row, path))
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value.tobytes()
        digest.update(json.dumps([path, isinstance(value, str), len(data)]).encode() + data)
    return digest.hexdigest()


def _text_or_ids(value: Any) -> str | IntArray:
    """A text, or token ids as an array of little-endian int64; an empty array for anything else."""
    if isinstance(value, str):
        return value
    try:
        ids = np.asarray(value)
    except (ValueError, TypeError):
        ids = np.empty(0)
    return ids.astype("<i8") if ids.ndim == 1 and ids.dtype.kind in "iu" else np.empty(0, dtype="<i8")


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
        kind = "text" if len(place.path) == 1 else "message"
        own = [
            dataclasses.replace(edit, column=place_name(place.path), start=edit.start + shift, kind=kind)
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


def revert(rows: Mapping[str, Any], stats_column: str = "toedit") -> dict[str, Any]:
    """A row, or a batch of rows (a dict of lists), before its edits and without the `toedit` column.

        ds.map(revert)
        ds.map(revert, batched=True)
        stream.map(revert, remove_columns="toedit")  # so, too, with a format: map keeps a column that is not returned

    A null in the `toedit` column means that the row was not edited. A row that was reverted before stays as it is.
    Raises RowError if a row changed after editing, or if the column does not hold what editing wrote there.
    """
    check_column_name(stats_column)
    if not isinstance(rows, Mapping) or hasattr(rows, "map"):  # a DatasetDict is a dict, too
        raise RowError(
            f"can't revert a {type(rows).__name__}: give one row or a batch of rows as a dict, "
            "such as ds.with_format(None).map(revert)"
        )
    if stats_column not in rows and {"status", "edits"} <= rows.keys():
        raise RowError("can't revert: that is what a row's 'toedit' column holds: give the whole row, ds.map(revert)")
    if stats_column not in rows:
        raise RowError(f"can't revert: no column {stats_column!r} (columns: {', '.join(map(repr, rows))})")
    lazy = type(rows).__name__ in ("LazyRow", "LazyBatch")
    batched = isinstance(rows[stats_column], (list, tuple, np.ndarray))
    structs = [_checked(struct, stats_column) for struct in (rows[stats_column] if batched else [rows[stats_column]])]
    names = dict.fromkeys(str(path_of(edit, rows)[0]) for struct in structs for edit in struct["edits"])
    gone = [name for name in names if name not in rows]
    if gone:
        raise RowError(
            f"can't revert: no column {gone[0]!r}, which was edited (columns: {', '.join(map(repr, rows))}): "
            "rename it back"
        )
    batch = {name: rows[name] if batched else [rows[name]] for name in names}
    if any(not hasattr(values, "__len__") or len(values) != len(structs) for values in batch.values()):
        raise RowError(f"can't revert: the columns of this batch differ in length from {stats_column!r}")
    originals = [_undo({name: values[i] for name, values in batch.items()}, struct) for i, struct in enumerate(structs)]
    reverted = {name: [row[name] for row in originals] if batched else originals[0][name] for name in names}
    if lazy:  # map keeps the columns that are neither returned nor taken out of its row
        del rows[stats_column]  # type: ignore[attr-defined]
        return reverted
    return {**{name: values for name, values in rows.items() if name != stats_column}, **reverted}


def _checked(struct: Any, stats_column: str) -> dict[str, Any]:
    """The edits and the digest of a `toedit` struct, in plain types. Raises RowError if it holds none."""
    if struct is None or struct != struct:  # NaN is the null of pandas
        return {"edits": [], "digest": None}
    if isinstance(struct, str):
        raise RowError(
            f"can't revert: {stats_column!r} holds text, which is all that CSV can hold: "
            "keep the edited dataset as Parquet or JSONL"
        )
    try:
        edits = [] if struct["edits"] is None else list(struct["edits"])
        kept = [
            {
                **{name: str(edit[name]) for name in ("column", "old", "new")},
                "start": int(edit["start"]),
                "kind": edit.get("kind"),
            }
            for edit in edits
        ]
        return {"edits": kept, "digest": struct.get("digest")}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise RowError(f"can't revert: {stats_column!r} does not hold what editing wrote there") from error


def _undo(row: dict[str, Any], struct: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a row that its edits name, before the edits."""
    edits, digest = struct["edits"], struct["digest"]
    if digest is not None and digest_of(row, edits) == digest:
        return row  # it was reverted before
    original, by_path = row, dict[Path, list[dict[str, Any]]]()
    for edit in edits:
        by_path.setdefault(path_of(edit, row), []).append(edit)
    for path, own in by_path.items():
        value, kind = _text_or_ids(get_at(row, path)), own[0]["kind"]
        if isinstance(value, str) and kind != "ids":
            original = put_at(original, path, revert_text(value, own))
        elif not isinstance(value, str) and len(value) and kind in ("ids", None):
            original = put_at(original, path, revert_ids(value.tolist(), own))
        else:
            what = "token ids" if kind == "ids" else "text"
            raise RowError(f"can't revert: {place_name(path)} is no longer {what}: it changed after editing")
    if digest is not None and digest_of(original, edits) != digest:
        raise RowError(f"can't revert: {', '.join(map(place_name, by_path)) or 'the edits'} changed after editing")
    return original
