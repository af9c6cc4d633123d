"""Which rows were measured: a digest of them, and whether two datasets have the same ones before their edits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from ..errors import RowError
from ..rows.revert import revert
from .containers import batches_of

if TYPE_CHECKING:
    from datasets import Dataset

    Splits = Mapping[str, Dataset]

Row = Mapping[str, Any]


class Digest:
    """A digest of the measured columns of rows, in order: 16 hex characters."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = columns
        self._hash = hashlib.blake2b(digest_size=8)

    def add(self, row: Row) -> None:
        self._hash.update(_of_row(row, self.columns))

    def __str__(self) -> str:
        return self._hash.hexdigest()


def digest_of(rows: Dataset, columns: Sequence[str]) -> str:
    """The digest of a dataset."""
    digest = Digest(columns)
    for row in _rows_of(rows, columns):
        digest.add(row)
    return str(digest)


def are_same_rows(
    a: Mapping[str, Dataset], b: Mapping[str, Dataset], columns: Sequence[str], stats_column: str
) -> bool:
    """Whether each row of A is that of B, before the edits that `stats_column` records in either of them."""
    if {split: len(rows) for split, rows in a.items()} != {split: len(rows) for split, rows in b.items()}:
        return False
    for split in a:
        of_a, of_b = (_originals(dataset[split], columns, stats_column) for dataset in (a, b))
        if any(one is None or one != other for one, other in zip_longest(of_a, of_b)):
            return False
    return True


def fits(record: Mapping[str, Any], splits: Splits) -> bool:
    """Whether a record of measurements (see `report.measurements`) has these rows on one of its sides."""
    for side in (record[name]["splits"] for name in "ab" if record[name]):
        if all(_is_same(recorded, splits.get(split), record["columns"]) for split, recorded in side.items()):
            return True
    return False


def _is_same(recorded: Mapping[str, Any], rows: Dataset | None, columns: Sequence[str]) -> bool:
    if rows is None or len(rows) != recorded["num_rows"] or not {*columns} <= {*rows.column_names}:
        return False
    return bool(digest_of(rows, columns) == recorded["digest"])


def _originals(rows: Dataset, columns: Sequence[str], stats_column: str) -> Iterator[bytes | None]:
    """A digest of each row before its edit; None for a row that changed after it."""
    has_edits = stats_column in rows.column_names
    for row in _rows_of(rows, [*columns, *([stats_column] if has_edits else [])]):
        try:
            yield hashlib.blake2b(_of_row(revert(row, stats_column) if has_edits else row, columns)).digest()
        except RowError:
            yield None


def _rows_of(rows: Dataset, columns: Sequence[str]) -> Iterator[Row]:
    for batch in batches_of(rows, lambda _: ([], list(columns))):
        yield from batch


def _of_row(row: Row, columns: Sequence[str]) -> bytes:
    values = [row.get(name) for name in columns]
    return json.dumps(values, default=str).encode() + b"\n"
