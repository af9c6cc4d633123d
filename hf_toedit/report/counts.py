"""What an edit did to all rows of a dataset, counted for a page: by split, by source, by length, by place."""

from __future__ import annotations

import itertools
import warnings
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..editing.stats import DatasetStats, TokenStats, check_column_name, no_column, summarize
from ..errors import RowError, ToEditWarning, nearest
from ..rows.arrow import to_rows
from ..rows.column import stats_columns
from ..rows.paths import get_at, path_of
from ..rows.revert import checked_struct
from .edits import edited_columns

if TYPE_CHECKING:
    from datasets import Dataset

BATCH_SIZE = 200  # rows in memory at a time
NUM_PARTS = 10
SOURCE_COLUMNS = ("source", "subset", "task", "task_name", "domain", "category", "dataset", "language", "lang")
MOST_SOURCES = 50  # a column with more values, unless it was asked for, does not say where rows come from
SUMMED = ("num_tokens", "num_editable", "num_visited", "num_visited_eligible", "num_changed", "logprob_sum")
Row = Mapping[str, Any]
Replacement = tuple[str, str, bool]  # old, new, and whether they are token ids


class Group:
    """The sums over some rows."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.sums: list[float] = [0] * len(SUMMED)

    def add(self, struct: Row) -> None:
        self.statuses[struct["status"]] += 1
        for i, name in enumerate(SUMMED):
            self.sums[i] += struct[name]

    def stats(self) -> DatasetStats:
        """The counts and rates of these rows, without interval, fingerprints and histogram."""
        tokens = TokenStats(**dict(zip(SUMMED, self.sums, strict=True)))  # type: ignore[arg-type]
        return DatasetStats(self.statuses.total(), dict(self.statuses), 0, tokens)


class Counts:
    """The counts over all rows of some splits, from one pass over the `toedit` column and the columns that were edited.

    splits: the datasets by split. by: a column that says where a row comes from; by default one of SOURCE_COLUMNS, if
        the rows have it and it has few values. None after counting if there is none.

    stats: what `summarize` says of all splits.
    by_split, by_source: the sums over the rows of each split and each value of `by`.
    by_length: the sums over rows of 2^(n-1) to 2^n - 1 tokens, by n.
    parts: the edits by where they begin in their text or list of ids, in ten parts of equal length.
    columns: the edits by column.
    replacements: the edits by old and new text.
    indices: the row numbers by split and status.
    num_not_edited: rows that were not part of the edit.
    other_edits: the columns that record other edits of the same rows.

    Raises RowError for a missing column.
    """

    def __init__(self, splits: Mapping[str, Dataset], stats_column: str = "toedit", by: str | None = None) -> None:
        check_column_name(stats_column)
        names = _common_columns(splits)
        if not names:
            raise RowError("there are no rows to report on")
        if stats_column not in names:
            raise no_column(stats_column, names)
        if by is not None and by not in names:
            raise RowError(f"no column {by!r}{nearest(by, names)}: set by= to one of the columns")
        self.stats_column, self.by = stats_column, by or next((name for name in SOURCE_COLUMNS if name in names), None)
        self.by_split: dict[str, Group] = defaultdict(Group)
        self.by_source: dict[str, Group] = defaultdict(Group)
        self.by_length: dict[int, Group] = defaultdict(Group)
        self.parts = [0] * NUM_PARTS
        self.columns: Counter[str] = Counter()
        self.replacements: Counter[Replacement] = Counter()
        self.indices: dict[tuple[str, str], array[int]] = defaultdict(lambda: array("q"))
        self.num_not_edited = 0
        recorded = {name for rows in splits.values() for name in stats_columns(rows.features)}
        self.other_edits = [name for name in names if name in recorded - {stats_column}]
        self._most_sources = MOST_SOURCES if by is None else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "these rows come from", ToEditWarning)  # the page names each edit
            self.stats = summarize(self._structs(splits), stats_column)

    def _structs(self, splits: Mapping[str, Dataset]) -> Iterator[Row]:
        """The structs of all rows, each counted once `summarize` has seen that it is one."""
        for split, rows in splits.items():
            labels = class_labels(rows, self.by)
            for i, (row, struct, edits) in enumerate(self._rows(rows)):
                if struct is None:
                    self.num_not_edited += 1
                    continue
                yield struct
                self.indices[split, struct["status"]].append(i)
                self.by_split[split].add(struct)
                self.by_length[int(struct["num_tokens"]).bit_length()].add(struct)
                self._add_source(group_name(row, self.by, labels), struct)
                for _, in_place in itertools.groupby(edits, key=lambda edit: edit["column"]):
                    self._add_edits(row, list(in_place))

    def _rows(self, rows: Dataset) -> Iterator[tuple[Row, Row | None, list[dict[str, Any]]]]:
        """Each row's edited columns and its source, its struct, and its edits."""
        plain = PlainRows(rows)
        for numbers, batch in plain.batches([self.stats_column]):
            structs = [row[self.stats_column] for row in batch]
            edits_of = [checked_struct(struct, self.stats_column)["edits"] for struct in structs]
            names = edited_columns(edits_of, rows.column_names) + [name for name in [self.by] if name is not None]
            yield from zip(plain.read(names, numbers), structs, edits_of, strict=True)

    def _add_source(self, source: str | None, struct: Row) -> None:
        if source is not None:
            self.by_source[source].add(struct)
            if self._most_sources is not None and len(self.by_source) > self._most_sources:
                self.by = None
                self.by_source.clear()

    def _add_edits(self, row: Row, edits: Sequence[Row]) -> None:
        """Count the edits of one text or one list of ids."""
        path, is_ids = path_of(edits[0], row), edits[0]["kind"] == "ids"
        self.columns[str(path[0])] += len(edits)
        for edit in edits:
            self.replacements[edit["old"], edit["new"], is_ids] += 1
        try:
            length = len(get_at(row, path))
        except (RowError, TypeError):
            return  # the row changed after editing: the list of rows says so
        if not is_ids:
            length += sum(len(edit["old"]) - len(edit["new"]) for edit in edits)
        for edit in edits:
            if 0 <= edit["start"] < length:
                self.parts[edit["start"] * NUM_PARTS // length] += 1


class PlainRows:
    """The rows of a dataset as plain Python values, some columns at a time; images and audio stay encoded."""

    def __init__(self, rows: Dataset) -> None:
        self.rows = rows
        self._with: dict[tuple[str, ...], Dataset] = {}  # selecting columns costs more than reading a batch

    def read(self, names: Iterable[str], numbers: Sequence[int]) -> list[dict[str, Any]]:
        """These columns of these rows."""
        columns = tuple(dict.fromkeys(names))
        if not columns:
            return [{} for _ in numbers]
        if columns not in self._with:
            self._with[columns] = self.rows.select_columns(list(columns)).with_format("arrow")
        return to_rows(self._with[columns][numbers])

    def batches(
        self, names: Iterable[str], numbers: Sequence[int] | None = None
    ) -> Iterator[tuple[Sequence[int], list[dict[str, Any]]]]:
        """These rows, by default all: of each batch the row numbers and these columns."""
        wanted = range(len(self.rows)) if numbers is None else numbers
        for low in range(0, len(wanted), BATCH_SIZE):
            batch = wanted[low : low + BATCH_SIZE]
            yield batch, self.read(names, batch)


def group_name(row: Row, by: str | None, labels: Sequence[str] | None) -> str | None:
    """The value of a row in the column `by` as text, or the name of its class label; None without such a column."""
    if by is None:
        return None
    value = row[by]
    return str(labels[value] if labels is not None and isinstance(value, int) and value >= 0 else value)


def class_labels(rows: Dataset, by: str | None) -> Sequence[str] | None:
    """The names of the class labels in a column; None for any other column."""
    names: Sequence[str] | None = getattr(rows.features.get(by), "names", None)
    return names


def _common_columns(splits: Mapping[str, Dataset]) -> list[str]:
    """The columns that all splits with rows have."""
    full = [rows.column_names for rows in splits.values() if len(rows)]
    return [name for name in (full[0] if full else []) if all(name in names for names in full)]
