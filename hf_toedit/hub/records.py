"""What a dataset's rows say about their edits, checked against the records of those edits."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from ..editing.config import ToEditConfig
from ..editing.stats import UNKNOWN, DatasetStats, no_column, summarize
from ..errors import RowError
from ..report.counts import MOST_SOURCES, SOURCE_COLUMNS, class_labels, group_name
from ..rows.column import stats_columns
from ..rows.paths import path_of
from ..rows.provenance import stats_column_of
from ..types import IntArray
from .source import ID

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

Record = Mapping[str, Any]  # of one edit, as `ToEditTransform.provenance` gives it and `toedit.json` holds it
BATCH_SIZE = 1000
EARLIER = "earlier_edits"  # in a record: those of the edits before it, oldest first
SUMMED = ("num_rows", "num_tokens", "num_changed")
NEEDED = ("fingerprint", "stats_column", "config", "prior", "revision")
REVISION = re.compile(r"[\w./-]+")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_listing(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, value))


# What a record's entries must be, unless they are null: a record can come from somebody else's dataset.
FIELDS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("fingerprint", "stats_column", "prior", "prior_class", "chat_template", "stats"), _is_text),
    **dict.fromkeys(("columns", "context", "roles"), _is_listing),
    **dict.fromkeys(("config", "prior_options", "versions"), _is_mapping),
    **dict.fromkeys(("max_length", "stride"), lambda value: isinstance(value, int)),
    "revision": lambda value: _is_text(value) and bool(REVISION.fullmatch(value)),
    "prior_hub_id": lambda value: _is_text(value) and bool(ID.fullmatch(value)),
    "tokenizer": lambda value: (
        _is_mapping(value) and isinstance(value.get("num_tokens"), int) and _is_text(value.get("digest"))
    ),
    EARLIER: lambda value: isinstance(value, list),
}


@runtime_checkable
class Recorded(Protocol):
    """Something that knows the record of its edit: a ToEditTransform."""

    @property
    def stats_column(self) -> str | None: ...
    def provenance(self) -> dict[str, Any]: ...


Edits = Recorded | Record | Sequence[Recorded | Record]
Counts = Mapping[str, Sequence["EditCounts"]]  # by split
Sums = Mapping[str, Sequence[int]]  # by the value of a column, those of SUMMED


@dataclasses.dataclass(frozen=True)
class EditCounts:
    """What one edit did to some rows of a split. The counts of separate rows add up.

    column: the column with the structs of the edit. fingerprint: the one in them; UNKNOWN for a prior without revision.
    stats: of these rows. changes: the number of changed places in each column.
    sources: of each column that may say where rows come from, the sums of SUMMED by its value; None if there are more
        than MOST_SOURCES values.
    """

    column: str
    fingerprint: str
    stats: DatasetStats
    changes: Mapping[str, int]
    sources: Mapping[str, Sums | None]

    def __add__(self, other: EditCounts) -> EditCounts:
        changes = Counter(self.changes)
        changes.update(other.changes)
        sources = {
            name: _added(self.sources[name], other.sources[name]) for name in self.sources if name in other.sources
        }
        return EditCounts(self.column, self.fingerprint, self.stats + other.stats, dict(changes), sources)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> EditCounts:
        """The inverse of `dataclasses.asdict`, also after a round trip through JSON."""
        return cls(**{**fields, "stats": DatasetStats.from_fields(fields["stats"])})


def _added(first: Sums | None, second: Sums | None) -> Sums | None:
    """The sums of two parts; None if there are too many values."""
    if first is None or second is None:
        return None
    sums = {name: list(first[name]) if name in first else [0] * len(SUMMED) for name in [*first, *second]}
    for name, values in second.items():
        sums[name] = [a + b for a, b in zip(sums[name], values, strict=True)]
    return sums if len(sums) <= MOST_SOURCES else None


@dataclasses.dataclass(frozen=True)
class DatasetEdit:
    """One edit of a dataset: its record, and what it did to the rows with its fingerprint.

    record: as in `toedit.json`. stats_column: the column with the structs of this edit.
    counts: by split, of the rows of this edit; splits without such rows are left out.
    """

    record: Record
    stats_column: str
    counts: Mapping[str, EditCounts]

    @property
    def stats(self) -> dict[str, DatasetStats]:
        """The statistics by split."""
        return {split: counts.stats for split, counts in self.counts.items()}

    @property
    def changes(self) -> dict[str, Mapping[str, int]]:
        """By split, the number of changed places in each column."""
        return {split: counts.changes for split, counts in self.counts.items()}

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint in the rows; None if the prior has no revision, so that rows can't say which edit it was."""
        found: str | None = self.record["fingerprint"]
        return found


def records_of(transform: Edits) -> list[Record]:
    """The records of one or several edits, oldest first.

    transform: a ToEditTransform, a record as in `toedit.json` (with the edits before it), or a sequence of these.

    Raises RowError for anything else, and for a transform with stats_column=None, whose rows can't say who edited them;
    ConfigError for a config that this version can't read.
    """
    given = [transform] if isinstance(transform, (Recorded, Mapping)) else transform
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)) or not given:
        raise RowError(
            f"transform= must be a ToEditTransform, its record, or a list of these, not {type(transform).__name__}"
        )
    return [record for one in given for record in _records_of_one(one)]


def _records_of_one(transform: object) -> Iterator[Record]:
    if isinstance(transform, Recorded):
        transform = transform.provenance()
        stats_column_of(transform)
    if not isinstance(transform, Mapping):
        raise RowError(f"a {type(transform).__name__} is not the record of an edit: give toedit.json's contents")
    if missing := [name for name in NEEDED if name not in transform]:
        raise RowError(f"this record of an edit has no {missing[0]!r}: give the contents of toedit.json")
    for name, is_right in FIELDS.items():
        if transform.get(name) is not None and not is_right(transform[name]):
            raise RowError(f"this record of an edit has a broken {name!r}: give the contents of toedit.json")
    if transform["config"] is not None:
        ToEditConfig.from_dict(transform["config"])
    for record in transform.get(EARLIER) or ():
        yield from _records_of_one(record)
    yield {name: value for name, value in transform.items() if name != EARLIER}


def edits_of(dataset: DatasetDict, transform: Edits) -> list[DatasetEdit]:
    """The edits in a dataset's rows, in the order of editing: that of their columns, then that of the records.

    transform: who made the edits, as `records_of` takes it.

    Raises RowError unless every fingerprint in the rows is that of one of the records, and every record has rows.
    """
    records = records_of(transform)
    if not recorded_columns(dataset):
        raise no_column(str(records[-1]["stats_column"]), _all_columns(dataset))
    return edits_counted(counts_of(dataset), records)


def counts_of(dataset: DatasetDict) -> Counts:
    """What the edits in a dataset's rows did, by split."""
    return {str(split): edit_counts(rows) for split, rows in dataset.items()}


def edit_counts(rows: Dataset) -> list[EditCounts]:
    """What each edit in some rows of one split did, in the order of the columns that record edits."""
    return [
        _counts(part, column, name)
        for column in stats_columns(rows.features)
        for name in _fingerprints(rows, column)
        if len(part := _rows_of(rows, column, name))
    ]


def edits_counted(counts: Counts, transform: Edits) -> list[DatasetEdit]:
    """`edits_of` for rows that are counted already."""
    records = records_of(transform)
    edits: dict[tuple[int, int], DatasetEdit] = {}
    found = _by_edit(counts)
    columns = list(dict.fromkeys(column for column, _ in found))
    for (column, name), by_split in found.items():
        which = _which(name, column, records)
        edits[columns.index(column), which] = DatasetEdit(records[which], column, by_split)
    for which, record in enumerate(records):
        if which not in {which for _, which in edits}:
            raise RowError(
                f"no row has the fingerprint {_name(record)} of the transform given: give the one that edited them"
            )
    return [edits[key] for key in sorted(edits)]


def _by_edit(counts: Counts) -> dict[tuple[str, str], dict[str, EditCounts]]:
    """The counts by column and fingerprint, and then by split; columns in their order, fingerprints sorted."""
    found: dict[tuple[str, str], dict[str, EditCounts]] = {}
    for split, parts in counts.items():
        for part in parts:
            found.setdefault((part.column, part.fingerprint), {})[split] = part
    columns = list(dict.fromkeys(column for column, _ in found))
    return {key: found[key] for key in sorted(found, key=lambda key: (columns.index(key[0]), key[1]))}


def all_records(counts: Counts, known: Edits) -> list[Record]:
    """A record for every edit in the rows: one of those known, or else one that holds only its fingerprint."""
    records = records_of(known)
    found: list[Record] = []
    for column, name in _by_edit(counts):
        same = [record for record in records if _is_of(record, name, column)]
        fingerprint = None if name == UNKNOWN else name
        unknown = {**dict.fromkeys(NEEDED), "fingerprint": fingerprint, "stats_column": column}
        found.append(same[0] if same else unknown)
    return found


def recorded_columns(dataset: DatasetDict) -> list[str]:
    """The columns of all splits in which edits are recorded."""
    return stats_columns({name: feature for rows in dataset.values() for name, feature in rows.features.items()})


def _all_columns(dataset: DatasetDict) -> list[str]:
    return list(dict.fromkeys(name for rows in dataset.values() for name in rows.column_names))


def _batches(rows: Dataset, column: str) -> Iterator[Any]:
    """A column of structs as Arrow arrays."""
    for table in rows.select_columns([column]).with_format("arrow").iter(BATCH_SIZE):
        yield table[column].combine_chunks()


def _fingerprints(rows: Dataset, column: str) -> list[str]:
    """The fingerprints in a column, sorted; UNKNOWN for priors without a revision."""
    names = {name for structs in _batches(rows, column) for name in _names(structs).unique().to_pylist()}
    return sorted(names - {None})


def _names(structs: Any) -> Any:
    """The fingerprints of structs: UNKNOWN for priors without a revision, null for rows that were not edited."""
    import pyarrow as pa
    import pyarrow.compute as pc

    names = structs.field("fingerprint").cast(pa.string()).fill_null(UNKNOWN)
    return pc.if_else(structs.is_valid(), names, pa.scalar(None, pa.string()))


def _is_named(structs: Any, name: str) -> Any:
    """Which structs have this fingerprint."""
    import pyarrow.compute as pc

    return pc.equal(_names(structs), name).fill_null(False)


def of_edit(structs: Any, name: str) -> Any:
    """The structs with this fingerprint."""
    return structs.filter(_is_named(structs, name))


def _name(record: Record) -> str:
    return record["fingerprint"] or UNKNOWN


def _is_of(record: Record, name: str, column: str) -> bool:
    """Whether a record is that of rows with this fingerprint; without one, the name of their column must do."""
    return _name(record) == name and (name != UNKNOWN or record["stats_column"] == column)


def _which(name: str, column: str, records: Sequence[Record]) -> int:
    """The index of the record of the rows with this fingerprint; of several, the one that names this column."""
    same = [i for i, record in enumerate(records) if _is_of(record, name, column)]
    in_column = [i for i in same if records[i]["stats_column"] == column]
    if not same:
        given = ", ".join(map(_name, records))
        raise RowError(
            f"another edit made rows of {column!r} (fingerprint {name}; given: {given}): "
            "give all edits of these rows, transform=[first, second]"
        )
    return (in_column or same)[0]


def _rows_of(rows: Dataset, column: str, name: str) -> Dataset:
    """The rows with this fingerprint."""
    indices = _where(_is_named(structs, name) for structs in _batches(rows, column))
    return rows if len(indices) == len(rows) else rows.select(indices)


def edited_indices(rows: Dataset, counts: EditCounts) -> IntArray:
    """The indices of the rows that an edit changed. counts: those of the edit, also in other rows."""
    import pyarrow.compute as pc

    def are_changed(structs: Any) -> Any:
        has_edits = pc.greater(pc.list_value_length(structs.field("edits")), 0).fill_null(False)
        return pc.and_(_is_named(structs, counts.fingerprint), has_edits)

    return _where(map(are_changed, _batches(rows, counts.column)))


def _where(masks: Iterable[Any]) -> IntArray:
    """Where Arrow masks, one after the other, are true."""
    flags = [mask.to_numpy(zero_copy_only=False) for mask in masks]
    return np.flatnonzero(np.concatenate(flags)) if flags else np.empty(0, dtype=np.int64)


def _counts(rows: Dataset, column: str, name: str) -> EditCounts:
    changes = _changes(rows, column)
    by = [source for source in SOURCE_COLUMNS if _names_sources(rows, source)]
    return EditCounts(
        column, name, summarize(rows, column), changes, {source: _sums(rows, column, source) for source in by}
    )


def _names_sources(rows: Dataset, name: str) -> bool:
    """Whether there is such a column, of names or numbers."""
    return getattr(rows.features.get(name), "dtype", None) in ("string", "large_string", "int64", "int32", "bool")


def _sums(rows: Dataset, column: str, by: str) -> Sums | None:
    """The sums of SUMMED by the value of a column; None if there are more than MOST_SOURCES values."""
    import pyarrow as pa

    sums: dict[str, list[int]] = {}
    labels = class_labels(rows, by)
    for table in rows.select_columns([by, column]).with_format("arrow").iter(BATCH_SIZE):
        structs = table[column].combine_chunks()
        counts = {"num_rows": pa.array([1] * len(structs)), **{name: structs.field(name) for name in SUMMED[1:]}}
        groups = pa.table({by: table[by], **counts}).group_by(by).aggregate([(name, "sum") for name in SUMMED])
        for group in groups.rename_columns([by, *SUMMED]).to_pylist():
            name = str(group_name(group, by, labels))
            before = sums.get(name, [0] * len(SUMMED))
            sums[name] = [have + group[key] for have, key in zip(before, SUMMED, strict=True)]
        if len(sums) > MOST_SOURCES:
            return None
    return sums


def _changes(rows: Dataset, column: str) -> dict[str, int]:
    """How many places the edit changed in each column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    counts: Counter[str] = Counter()
    for structs in _batches(rows, column):
        edits = pc.list_flatten(structs.drop_null().field("edits"))
        if len(edits):
            names = [name for name in ("column", "kind") if edits.type.get_field_index(name) >= 0]
            table = pa.table({name: edits.field(name) for name in names})
            for place in table.group_by(names).aggregate([([], "count_all")]).to_pylist():
                counts[str(path_of(place, rows.column_names)[0])] += place["count_all"]
    return dict(counts)
