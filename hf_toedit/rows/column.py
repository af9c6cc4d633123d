"""The `toedit` column: what happened to each row, its edits, and a digest that lets `revert` check its work."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..editing.editor import Edited
from ..editing.stats import CELL_COUNTS, TokenStats
from ..statuses import Status
from ..types import IntArray
from .paths import get_at, path_of

if TYPE_CHECKING:
    from datasets import Dataset


class TypedColumn(list[Any]):
    """A new column that knows its Arrow type, even if all rows of a batch have null."""

    def __init__(self, values: Iterable[Any], type: Any) -> None:
        super().__init__(values)
        self.type = type

    def __arrow_array__(self, type: Any = None) -> Any:
        import pyarrow as pa

        return pa.array(list(self), self.type)


def ids_column(name: str, values: Iterable[Sequence[int] | None]) -> TypedColumn:
    """A new column of ids or labels."""
    return TypedColumn(values, ids_type(name))


def ids_type(name: str) -> Any:
    """The Arrow type of a new column of ids, the one that `map` picks by its name."""
    import pyarrow as pa

    return pa.list_(pa.int32() if name == "input_ids" else pa.int64())


def struct_column(structs: Sequence[Mapping[str, Any] | None]) -> TypedColumn:
    """A column of `toedit` structs."""
    return TypedColumn(structs, struct_type(adds=any("added" in (struct or ()) for struct in structs)))


def struct_type(*, adds: bool = False) -> Any:
    """The Arrow type of `toedit` structs. adds: whether the edit gives rows new columns."""
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
    if adds:
        fields.append(("added", pa.list_(pa.string())))
    return pa.struct(fields)


def _count_names() -> list[str]:
    return [field.name for field in dataclasses.fields(TokenStats) if field.name.startswith("num_")]


def stats_columns(features: Mapping[str, Any]) -> list[str]:
    """The columns in which edits are recorded, whatever their names, in order. features: those of a dataset."""
    fields = {"status", "fingerprint", "num_tokens", "digest", "edits"}
    return [name for name, feature in features.items() if isinstance(feature, Mapping) and fields <= feature.keys()]


def added_columns(rows: Dataset, column: str) -> list[str]:
    """The columns that an edit, recorded in a column of structs, gave to the rows of a dataset."""
    feature = rows.features.get(column)
    if not isinstance(feature, Mapping) or "added" not in feature:
        return []
    structs = (
        table[column].combine_chunks() for table in rows.select_columns([column]).with_format("arrow").iter(1000)
    )
    return sorted({name for each in structs for name in each.field("added").flatten().unique().to_pylist()})


def row_status(cells: Sequence[Edited]) -> Status:
    """The status of a row: `edited` if any of its cells was, else that of its first skipped cell, else `unchanged`."""
    statuses = [cell.status for cell in cells]
    skipped = [status for status in statuses if status.is_skipped]
    return Status.EDITED if Status.EDITED in statuses else skipped[0] if skipped else Status.UNCHANGED


def to_struct(
    cells: Sequence[Edited],
    row: Mapping[str, Any],
    fingerprint: str | None = None,
    added: Sequence[str] = (),
) -> dict[str, Any]:
    """The `toedit` struct of a row: the sum of its cells' statistics, and their edits in order.

    cells: the outcome for each text and each document in the row. row: the row before its edits. fingerprint: that of
        the edit; None if the prior has no revision. added: the columns that the edit gave the row.
    """
    stats = sum((cell.stats for cell in cells), start=TokenStats())
    edits = [{**vars(edit)} for cell in cells for edit in cell.edits]
    return {
        "status": row_status(cells).value,
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
        **({"added": [*added]} if added else {}),
    }


def digest_of(row: Mapping[str, Any], edits: Sequence[Mapping[str, Any]]) -> str | None:
    """A digest (16 hex characters) of the complete texts and ids that the edits name; None if there are no edits.

    The `toedit` struct stores the original row's digest, so that `revert` can prove that it restored the original.
    """
    if not edits:
        return None
    digest = hashlib.blake2b(digest_size=8)
    for path in dict.fromkeys(path_of(edit, row) for edit in edits):
        value = text_or_ids(get_at(row, path))
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value.tobytes()
        digest.update(json.dumps([path, isinstance(value, str), len(data)]).encode() + data)
    return digest.hexdigest()


def text_or_ids(value: Any) -> str | IntArray:
    """A text, or token ids as an array of little-endian int64; an empty array for anything else."""
    if isinstance(value, str):
        return value
    try:
        ids = np.asarray(value)
    except (ValueError, TypeError):
        ids = np.empty(0)
    return ids.astype("<i8") if ids.ndim == 1 and ids.dtype.kind in "iu" else np.empty(0, dtype="<i8")
