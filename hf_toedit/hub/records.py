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


@dataclasses.dataclass(frozen=True)
class DatasetEdit:
    """One edit of a dataset: its record, and what it did to the rows with its fingerprint.

    record: as in `toedit.json`. stats_column: the column with the structs of this edit.
    stats: by split, for the rows of this edit; splits without such rows are left out.
    changes: by split, the number of changed places in each column.
    """

    record: Record
    stats_column: str
    stats: Mapping[str, DatasetStats]
    changes: Mapping[str, Mapping[str, int]]

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
    columns = recorded_columns(dataset)
    if not columns:
        raise no_column(str(records[-1]["stats_column"]), _all_columns(dataset))
    edits: dict[tuple[int, int], DatasetEdit] = {}
    for place, column in enumerate(columns):
        for name, splits in _fingerprints(dataset, column).items():
            which = _which(name, column, records)
            rows_of = {split: _rows_of(dataset[split], column, name) for split in splits}
            edits[place, which] = _edit(records[which], column, rows_of)
    for which, record in enumerate(records):
        if which not in {which for _, which in edits}:
            raise RowError(
                f"no row has the fingerprint {_name(record)} of the transform given: give the one that edited them"
            )
    return [edits[key] for key in sorted(edits)]


def all_records(dataset: DatasetDict, known: Edits) -> list[Record]:
    """A record for every edit in a dataset's rows: one of those known, or else one that holds only its fingerprint."""
    records = records_of(known)
    found: dict[tuple[str, str], Record] = {}
    for column in recorded_columns(dataset):
        for name in _fingerprints(dataset, column):
            same = [record for record in records if _is_of(record, name, column)]
            fingerprint = None if name == UNKNOWN else name
            unknown = {**dict.fromkeys(NEEDED), "fingerprint": fingerprint, "stats_column": column}
            found[name, column] = same[0] if same else unknown
    return list(found.values())


def recorded_columns(dataset: DatasetDict) -> list[str]:
    """The columns of all splits in which edits are recorded."""
    return stats_columns({name: feature for rows in dataset.values() for name, feature in rows.features.items()})


def _all_columns(dataset: DatasetDict) -> list[str]:
    return list(dict.fromkeys(name for rows in dataset.values() for name in rows.column_names))


def _batches(rows: Dataset, column: str) -> Iterator[Any]:
    """A column of structs as Arrow arrays."""
    for table in rows.select_columns([column]).with_format("arrow").iter(BATCH_SIZE):
        yield table[column].combine_chunks()


def _fingerprints(dataset: DatasetDict, column: str) -> dict[str, list[str]]:
    """The fingerprints in a column, UNKNOWN for priors without a revision, each with the splits that have it."""
    found: dict[str, list[str]] = {}
    for split, rows in dataset.items():
        batches = _batches(rows, column) if column in rows.column_names else ()
        for name in {name for structs in batches for name in _names(structs).unique().to_pylist()} - {None}:
            found.setdefault(name, []).append(split)
    return dict(sorted(found.items()))


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


def edited_indices(rows: Dataset, edit: DatasetEdit) -> IntArray:
    """The indices of the rows that an edit changed."""
    import pyarrow.compute as pc

    def are_changed(structs: Any) -> Any:
        has_edits = pc.greater(pc.list_value_length(structs.field("edits")), 0).fill_null(False)
        return pc.and_(_is_named(structs, _name(edit.record)), has_edits)

    return _where(map(are_changed, _batches(rows, edit.stats_column)))


def _where(masks: Iterable[Any]) -> IntArray:
    """Where Arrow masks, one after the other, are true."""
    flags = [mask.to_numpy(zero_copy_only=False) for mask in masks]
    return np.flatnonzero(np.concatenate(flags)) if flags else np.empty(0, dtype=np.int64)


def struct_batches(rows: Dataset, edit: DatasetEdit, column: str) -> Iterator[tuple[Any, Any]]:
    """The values of a column in the rows of an edit, and their structs, as Arrow arrays."""
    columns = rows.select_columns([column, edit.stats_column]).with_format("arrow")
    for batch in columns.iter(BATCH_SIZE):
        structs = batch[edit.stats_column].combine_chunks()
        is_of_edit = _is_named(structs, _name(edit.record))
        yield batch[column].combine_chunks().filter(is_of_edit), structs.filter(is_of_edit)


def _edit(record: Record, column: str, rows_of: Mapping[str, Dataset]) -> DatasetEdit:
    edited = {split: rows for split, rows in rows_of.items() if len(rows)}
    stats = {split: summarize(rows, column) for split, rows in edited.items()}
    return DatasetEdit(record, column, stats, {split: _changes(rows, column) for split, rows in edited.items()})


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
