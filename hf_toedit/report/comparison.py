"""Whether reverting an edited dataset gives the source, row by row."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import RowError, SourceError
from ..rows.column import added_columns, stats_columns
from ..rows.revert import revert
from .counts import PlainRows

if TYPE_CHECKING:
    from datasets import Dataset

MOST_NAMED = 10  # rows that differ, for each split


@dataclasses.dataclass(frozen=True)
class Comparison:
    """An edited dataset, reverted, next to its source.

    num_rows: rows compared. num_equal: those that are equal in all compared columns.
    columns: the columns that both have. left_out: what only one of the two has, columns and splits.
    differences: of the first rows that differ, the split, the row number, and what is different.
    """

    num_rows: int
    num_equal: int
    columns: list[str]
    left_out: list[str]
    differences: list[tuple[str, int, str]]

    @property
    def is_equal(self) -> bool:
        return self.num_equal == self.num_rows

    def __str__(self) -> str:
        if self.is_equal:
            return f"reverting the edits gives the source, in all of {self.num_rows:,} rows"
        split, i, what = self.differences[0]
        differ = f"{self.num_rows - self.num_equal:,} of {self.num_rows:,} rows"
        return f"reverting the edits does not give the source in {differ}; first {split} {i}: {what}"


def compare(edited: Mapping[str, Dataset], source: Mapping[str, Dataset], stats_column: str = "toedit") -> Comparison:
    """Revert each row of `edited` and compare it with the row of `source` in the same place.

    edited, source: the datasets by split. A single split is compared with a single split of any name. Of several
        edits, those that the source does not have are reverted, the last one first.

    Raises SourceError if the source lacks a split, has another number of rows in it, or has no column in common.
    """
    num_rows, num_equal, differences = 0, 0, list[tuple[str, int, str]]()
    columns = dict[str, None]()
    left_out = dict.fromkeys(f"split {split}" for split in source if len(source) > 1 and split not in edited)
    for split, rows in edited.items():
        others = _partner(split, rows, edited, source)
        undone = [
            name for name in stats_columns(rows.features) if name == stats_column or name not in others.column_names
        ]
        names = [name for name in rows.column_names if name in others.column_names and name not in undone]
        if not names:
            raise SourceError(f"the source has none of the columns of split {split!r}: is it the right source?")
        columns |= dict.fromkeys(names)
        added = [name for column in undone for name in added_columns(rows, column) if name not in names]
        left_out |= dict.fromkeys(sorted(({*rows.column_names} ^ {*others.column_names}) - {*undone, *added}))
        different = _differences(rows, others, names, undone[::-1], added)
        num_rows += len(rows)
        num_equal += len(rows) - len(different)
        differences += [(str(split), i, what) for i, what in list(different.items())[:MOST_NAMED]]
    return Comparison(num_rows, num_equal, [*columns], [*left_out], differences)


def _partner(split: str, rows: Dataset, edited: Mapping[str, Dataset], source: Mapping[str, Dataset]) -> Dataset:
    """The split of the source to compare a split with."""
    if split not in source and (len(edited) > 1 or len(source) > 1):
        raise SourceError(f"the source has no split {str(split)!r}; it has {', '.join(map(str, source))}")
    others = source[split] if split in source else next(iter(source.values()))
    if len(others) != len(rows):
        raise SourceError(
            f"split {str(split)!r} has {len(rows):,} rows and the source {len(others):,}: "
            "rows can only be compared where none was added, removed or filtered out"
        )
    return others


def _differences(
    rows: Dataset, others: Dataset, names: list[str], undone: list[str], added: list[str]
) -> dict[int, str]:
    """By row number, why a row is not the source's once the edits in the columns `undone` are reverted, in order.

    added: the columns that these edits gave the rows.
    """
    different = {}
    sources = PlainRows(others)
    for numbers, batch in PlainRows(rows).batches([*names, *added, *undone]):
        for i, row, other in zip(numbers, batch, sources.read(names, numbers), strict=True):
            if why := _difference(row, other, undone):
                different[i] = why
    return different


def _difference(row: dict[str, Any], other: dict[str, Any], undone: list[str]) -> str:
    reverted = row
    try:
        for column in undone:
            reverted = revert(reverted, column)
    except RowError as error:
        return str(error)
    names = [name for name, value in other.items() if not _is_equal(reverted[name], value)]
    return f"differs in {', '.join(names)}" if names else ""


def _is_equal(a: Any, b: Any) -> bool:
    return bool(a == b) or repr(a) == repr(b)  # NaN equals nothing, not even itself
