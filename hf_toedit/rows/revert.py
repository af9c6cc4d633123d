"""Undo the edits to a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..editing.stats import check_column_name
from ..errors import RowError
from .column import digest_of, text_or_ids
from .messages import or_empty
from .paths import FieldPath, get_at, path_of, place_name, put_at


def revert(rows: Mapping[str, Any], stats_column: str = "toedit") -> dict[str, Any]:
    """Restore a row, or a batch of rows (a dict of lists), to its state before the edit, without the `toedit` column.

        ds.map(revert)
        ds.map(revert, batched=True)
        stream.map(revert, remove_columns="toedit")  # also for a formatted dataset, where map keeps the column

    A null in the `toedit` column means that the row was not edited. A row that has already been reverted stays
    as it is. Columns that the edit added are removed. Raises RowError if a row changed after editing, or if the column
    does not hold what the edit wrote there.
    """
    return undone(rows, stats_column)


def undone(rows: Mapping[str, Any], stats_column: str, *, keep_added: bool = False) -> dict[str, Any]:
    """`revert`. keep_added: keep the columns that the edit added, with the values that its changes replaced."""
    check_column_name(stats_column)
    if not isinstance(rows, Mapping) or hasattr(rows, "map"):  # a DatasetDict is also a dict
        raise RowError(
            f"can't revert a {type(rows).__name__}: give one row or a batch of rows as a dict, "
            "such as ds.with_format(None).map(revert)"
        )
    if stats_column not in rows and {"status", "edits"} <= rows.keys():
        raise RowError("can't revert a 'toedit' struct by itself: give the whole row, as ds.map(revert) does")
    if stats_column not in rows:
        raise RowError(f"can't revert: no column {stats_column!r} (columns: {', '.join(map(repr, rows))})")
    is_lazy = type(rows).__name__ in ("LazyRow", "LazyBatch")
    is_batch = isinstance(rows[stats_column], (list, tuple, np.ndarray))
    structs = [
        checked_struct(struct, stats_column) for struct in (rows[stats_column] if is_batch else [rows[stats_column]])
    ]
    structs = [_still_there(struct, rows) for struct in structs]
    names = dict.fromkeys(str(path_of(edit, rows)[0]) for struct in structs for edit in struct["edits"])
    missing = [name for name in names if name not in rows]
    if missing:
        raise RowError(
            f"can't revert: no column {missing[0]!r}, which was edited (columns: {', '.join(map(repr, rows))}): "
            "rename it back"
        )
    batch = {name: rows[name] if is_batch else [rows[name]] for name in names}
    if any(not hasattr(values, "__len__") or len(values) != len(structs) for values in batch.values()):
        raise RowError(f"can't revert: the columns of this batch differ in length from {stats_column!r}")
    originals = [_undo({name: values[i] for name, values in batch.items()}, struct) for i, struct in enumerate(structs)]
    reverted = {name: [row[name] for row in originals] if is_batch else originals[0][name] for name in names}
    added = [] if keep_added else list(dict.fromkeys(name for struct in structs for name in struct["added"]))
    removed = [stats_column, *(name for name in added if name in rows)]
    for name in removed[1:]:
        values = rows[name] if is_batch else [rows[name]]
        if any(
            name not in struct["added"] and value is not None for struct, value in zip(structs, values, strict=True)
        ):
            raise RowError(
                f"can't revert: some rows had {name!r} before the edit, and others got it: revert them apart"
            )
    if is_lazy:  # map keeps columns that are neither returned nor deleted from its row
        for name in removed:
            del rows[name]  # type: ignore[attr-defined]
    kept = {} if is_lazy else rows
    return {name: values for name, values in {**kept, **reverted}.items() if name not in removed}


def _still_there(struct: dict[str, Any], rows: Mapping[str, Any]) -> dict[str, Any]:
    """A struct without the edits in columns that the edit added and that are gone: these are undone."""
    gone = {name for name in struct["added"] if name not in rows}
    edits = [edit for edit in struct["edits"] if path_of(edit, rows)[0] not in gone]
    return struct if len(edits) == len(struct["edits"]) else {**struct, "edits": edits, "digest": None}


def checked_struct(struct: Any, stats_column: str) -> dict[str, Any]:
    """The edits and the digest of a `toedit` struct, as plain types. Raises RowError for anything else."""
    if struct is None or struct != struct:  # pandas uses NaN for null
        return {"edits": [], "digest": None, "added": []}
    if isinstance(struct, str):
        raise RowError(
            f"can't revert: {stats_column!r} holds text, as after saving as CSV: "
            "save the edited dataset as Parquet or JSONL"
        )
    try:
        edits = [] if struct["edits"] is None else list(struct["edits"])
        plain = [
            {
                **{name: str(edit[name]) for name in ("column", "old", "new")},
                "start": int(edit["start"]),
                "kind": edit.get("kind"),
            }
            for edit in edits
        ]
        return {"edits": plain, "digest": struct.get("digest"), "added": list(map(str, or_empty(struct.get("added"))))}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise RowError(f"can't revert: {stats_column!r} does not hold what editing wrote there") from error


def _undo(row: dict[str, Any], struct: Mapping[str, Any]) -> dict[str, Any]:
    """The edited columns of a row as they were before the edits."""
    edits, digest = struct["edits"], struct["digest"]
    if digest is not None and digest_of(row, edits) == digest:
        return row  # already reverted
    original, by_path = row, dict[FieldPath, list[dict[str, Any]]]()
    for edit in edits:
        by_path.setdefault(path_of(edit, row), []).append(edit)
    for path, edits_there in by_path.items():
        value, kind = text_or_ids(get_at(row, path)), edits_there[0]["kind"]
        if isinstance(value, str) and kind != "ids":
            original = put_at(original, path, revert_text(value, edits_there))
        elif not isinstance(value, str) and len(value) and kind in ("ids", None):
            original = put_at(original, path, revert_ids(value.tolist(), edits_there))
        else:
            what = "token ids" if kind == "ids" else "text"
            raise RowError(f"can't revert: {place_name(path)} is no longer {what}: it changed after editing")
    if digest is not None and digest_of(original, edits) != digest:
        raise RowError(f"can't revert: {', '.join(map(place_name, by_path)) or 'the edits'} changed after editing")
    return original


def revert_text(text: str, edits: Sequence[dict[str, Any]]) -> str:
    """The text before the edits. Raises RowError if `text` is not what they produced.

    text: the edited text. The `start` of an edit is a character offset in the original text.
    """
    pieces, position, shift = [], 0, 0  # shift: how many characters the edits so far have added
    for edit in sorted(edits, key=lambda edit: edit["start"]):
        start = edit["start"] + shift
        end = start + len(edit["new"])
        if start < position or text[start:end] != edit["new"]:
            raise RowError(f"can't revert: {edit['column']} changed after editing")
        pieces += [text[position:start], edit["old"]]
        position, shift = end, shift + len(edit["new"]) - len(edit["old"])
    return "".join([*pieces, text[position:]])


def revert_ids(ids: Sequence[int], edits: Sequence[dict[str, Any]]) -> list[int]:
    """The list of ids before the edits. Raises RowError if `ids` is not what they produced."""
    reverted = list(ids)
    for edit in edits:
        start = edit["start"]
        if not 0 <= start < len(reverted) or str(reverted[start]) != edit["new"] or not edit["old"].isdecimal():
            raise RowError(f"can't revert: {edit['column']} changed after editing")
        reverted[start] = int(edit["old"])
    return reverted
