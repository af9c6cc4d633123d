"""The rows of a patch: what they hold of an edited row, and the way back from them and the rows of the source.

There is one for each row of the edited dataset. It has the row's place in the source, the first 32 bits of a digest of
the source's row, and its `toedit` structs. In these, an edit has the `length` of what it replaced instead of `old`;
`digest` is left out; and counts and keys are null where they are what `SAME` and `CellGuess` say.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..editing.cells import TokenRow
from ..editing.draws import draw_key
from ..editing.stats import CELL_COUNTS
from ..errors import RowError
from ..rows.arrow import to_array, to_batch, to_rows
from ..rows.column import digest_of, struct_column, struct_type, text_or_ids
from ..rows.formats import ALTERNATIVES, IDS, Unit, shape_of
from ..rows.paths import FieldPath, get_at, path_of, put_at
from ..rows.rendering import Renderer
from ..rows.revert import revert
from ..rows.tokens import MASKS, read_ids

if TYPE_CHECKING:
    from datasets import Dataset

BATCH = 1000  # rows
PLACE, DIGEST = "source_row", "source_digest"
SAME = (("num_editable", "num_scorable"), ("num_scorable", "num_tokens"))  # counts that are often equal
NO_TEMPLATE = Renderer((), None, {})
Digests = NDArray[np.uint64]
Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A `toedit` column, and the records of the edits that its rows name by their fingerprints."""

    column: str
    records: Sequence[Mapping[str, Any]]

    @property
    def patch_column(self) -> str:
        """Its name in a patch, where it is not what `revert` and `summarize` need."""
        return f"{self.column}_patch"

    def place_of(self, struct: Row) -> int:
        """The index of the record that a struct names."""
        fingerprints = [record["fingerprint"] for record in self.records]
        return fingerprints.index(struct["fingerprint"]) if struct["fingerprint"] in fingerprints else 0


def schema(stages: Sequence[Stage]) -> Any:
    """The Arrow schema of a patch's rows."""
    import pyarrow as pa

    edit = pa.struct(
        {"column": pa.string(), "start": pa.int64(), "length": pa.int64(), "new": pa.string(), "kind": pa.string()}
    )
    kept = [field for field in struct_type() if field.name not in ("digest", "edits")]
    struct = pa.struct([*kept, pa.field("edits", pa.list_(edit))])
    return pa.schema([(PLACE, pa.int64()), (DIGEST, pa.uint32()), *((stage.patch_column, struct) for stage in stages)])


def parquet_options(stages: Sequence[Stage]) -> dict[str, Any]:
    """How the rows are written: what does not repeat has no dictionary, and numbers that ascend are differences."""
    encodings = {PLACE: "DELTA_BINARY_PACKED", DIGEST: "PLAIN"}
    for stage in stages:
        encodings[f"{stage.patch_column}.logprob_sum"] = "BYTE_STREAM_SPLIT"
        encodings[f"{stage.patch_column}.edits.list.element.start"] = "DELTA_BINARY_PACKED"
    paths = [path for field in schema(stages) for path in _leaves(field.name, field.type)]
    dictionaries = [path for path in paths if path not in encodings]
    return {"compression": "zstd", "column_encoding": encodings, "use_dictionary": dictionaries}


def _leaves(path: str, kind: Any) -> list[str]:
    """The columns of Parquet that hold an Arrow field."""
    if hasattr(kind, "value_type"):
        return _leaves(f"{path}.list.element", kind.value_type)
    fields = list(kind) if kind.num_fields else []
    return [leaf for field in fields for leaf in _leaves(f"{path}.{field.name}", field.type)] or [path]


def tables(rows: Dataset, columns: Sequence[str]) -> Iterator[Any]:
    """Some columns of a dataset as Arrow tables of BATCH rows."""
    yield from rows.select_columns(list(columns)).with_format("arrow").iter(BATCH)


def patch_rows(edited: Any, stages: Sequence[Stage], places: NDArray[np.int64], digests: Digests) -> Any:
    """A table of patch rows. edited: a table of edited rows. places, digests: those of the rows in the source."""
    import pyarrow as pa

    columns, batch = {PLACE: places, DIGEST: first_bits(digests)}, to_batch(edited)
    names = [name for name in edited.column_names if name not in {stage.column for stage in stages}]
    for stage in reversed(stages):
        structs, batch = batch[stage.column], revert(batch, stage.column)
        cells = CellGuess(stage, names)
        rows = _transposed(batch, cells.columns)
        columns[stage.patch_column] = [_compact(*pair, cells) for pair in zip(structs, rows, strict=True)]
    target = schema(stages)
    return pa.table([pa.array(columns[field.name], field.type) for field in target], schema=target)


def _transposed(batch: Mapping[str, Sequence[Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a batch. names: at least one column."""
    return [dict(zip(names, values, strict=True)) for values in zip(*(batch[name] for name in names), strict=True)]


# Structs.


def _compact(struct: Row | None, before: Row, cells: CellGuess) -> dict[str, Any] | None:
    """A struct without source text, and without what can be computed from the source."""
    if struct is None:
        return None
    edits = [{**edit, "length": 1 if edit["kind"] == "ids" else len(edit["old"])} for edit in struct["edits"] or ()]
    expected = cells.expected(struct, before)
    kept = [_unless(cell, guess) for cell, guess in zip(struct["cells"] or (), expected, strict=True)]
    for name, same in SAME:
        struct = _unless(struct, {name: struct[same]})
    return {**struct, "cells": kept, "edits": edits}


def _complete(struct: dict[str, Any], before: Row, cells: CellGuess, edits: Sequence[Row]) -> dict[str, Any]:
    """The inverse of `_compact`. edits: with `old`."""
    for name, same in reversed(SAME):
        struct = _or(struct, {name: struct[same]})
    expected = cells.expected(struct, before)
    full = [_or(cell, guess) for cell, guess in zip(struct["cells"] or (), expected, strict=True)]
    return {**struct, "cells": full, "edits": edits, "digest": digest_of(before, edits)}


def _unless(values: Row, expected: Row) -> dict[str, Any]:
    return {name: None if name in expected and value == expected[name] else value for name, value in values.items()}


def _or(values: Row, expected: Row) -> dict[str, Any]:
    return {name: expected.get(name) if value is None else value for name, value in values.items()}


class CellGuess:
    """What the `cells` of a stage's structs are likely to be, given the row before the edit.

    names: the columns of the source. columns: those that must be given of a row, and at least one.
    """

    def __init__(self, stage: Stage, names: Sequence[str]) -> None:
        self.stage, self.units = stage, [_units(names, record) for record in stage.records]
        read = {name for units in self.units for unit in units for name in unit.names} | {*MASKS}
        self.columns = [name for name in names if name in read] or list(names[:1])

    def expected(self, struct: Row, before: Row) -> list[dict[str, Any]]:
        """A guess at each cell, in all or some of its fields: keys, and the counts if there is one cell."""
        num_cells, place = len(struct["cells"] or ()), self.stage.place_of(struct)
        config, units = self.stage.records[place]["config"], self.units[place]
        keys = [
            draw_key(data, seed=config["seed"], generation=config["generation"])[:8].hex()
            for data in (_draw_bytes(before, units) if config else ())
        ]
        counts = {name: struct[name] for name in CELL_COUNTS} if num_cells == 1 else {}
        return [{**({"key": keys[i]} if len(keys) == num_cells else {}), **counts} for i in range(num_cells)]


def _draw_bytes(row: Row, units: Sequence[Unit]) -> Iterator[bytes]:
    """What the draws of a row's cells were keyed by, as far as that can be known without the prior's chat template."""
    for unit in units:
        for cell in read_ids(row).cells if unit.columns == IDS else NO_TEMPLATE.render(row, unit).cells:
            if isinstance(cell, TokenRow):
                yield cell.input_ids_T[cell.attention_T].astype("<i8").tobytes()
            elif isinstance(cell.value, str) and cell.value:
                yield cell.value.encode("utf-8", "surrogatepass")


def _units(names: Sequence[str], record: Mapping[str, Any]) -> list[Unit]:
    """How the edit of a record read rows with these columns; the parts whose columns are still there."""
    columns, context = (tuple(record.get(name) or ()) for name in ("columns", "context"))
    shape = None if columns else shape_of(names)
    if shape is not None:
        units = [shape]
    elif context and not {*ALTERNATIVES} <= {*columns}:
        units = [Unit(context, columns)]
    else:
        units = [Unit(context, (name,)) for name in columns if name not in MASKS or "input_ids" not in columns]
    return [unit for unit in units if all(name in names for name in unit.names)]


# Digests.


def digests(rows: Dataset, columns: Sequence[str]) -> Digests:
    """A digest of each row's columns. Images, audio and the like are left out: their paths differ between machines."""
    columns = _comparable(rows, columns)
    return _joined(_digests(to_rows(table)) for table in tables(rows, columns))


def digests_before(rows: Dataset, columns: Sequence[str], stages: Sequence[Stage]) -> Digests:
    """The digests of edited rows as they were before the edits. Raises RowError if a row changed after editing."""
    columns = _comparable(rows, columns)
    names = [*columns, *(stage.column for stage in stages)]
    return _joined(_digests(_before(to_batch(table), columns, stages)) for table in tables(rows, names))


def _before(batch: dict[str, Any], columns: Sequence[str], stages: Sequence[Stage]) -> list[dict[str, Any]]:
    for stage in reversed(stages):
        batch = revert(batch, stage.column)
    return _transposed(batch, columns)


def _comparable(rows: Dataset, columns: Sequence[str]) -> list[str]:
    return [name for name in columns if not _has_media(rows.features[name])]


def _has_media(feature: Any) -> bool:
    """Whether a feature of `datasets` holds images, audio and the like, however deep."""
    if isinstance(feature, Mapping):
        return any(map(_has_media, feature.values()))
    if hasattr(feature, "feature"):  # a list
        return _has_media(feature.feature)
    return hasattr(feature, "decode_example") and type(feature).__name__ != "Json"


def _joined(parts: Iterator[Digests]) -> Digests:
    return np.concatenate([np.empty(0, dtype=np.uint64), *parts])


def _digests(rows: Sequence[Mapping[str, Any]]) -> Digests:
    data = b"".join(hashlib.blake2b(ascii(row).encode(), digest_size=8).digest() for row in rows)
    return np.frombuffer(data, dtype="<u8").astype(np.uint64)


def first_bits(digests: Digests) -> NDArray[np.uint32]:
    """The part of each digest that a patch holds for its row."""
    return (digests >> np.uint64(32)).astype(np.uint32)


def digest_of_all(digests: Digests) -> str:
    """32 hex characters for all rows of a split, in order."""
    return hashlib.blake2b(digests.astype("<u8").tobytes(), digest_size=16).hexdigest()


# Applying.


def applied(before: Any, patch: Any, stages: Sequence[Stage]) -> Any:
    """A table of source rows after the edits of a table of patch rows, with the `toedit` columns at the end.

    Raises RowError if the edits do not fit the rows.
    """
    import pyarrow as pa

    table = before
    for stage in stages:
        structs = patch[stage.patch_column].to_pylist()
        edits = [(struct and struct["edits"]) or () for struct in structs]
        edited = {str(path_of(edit, table.column_names)[0]) for of_row in edits for edit in of_row}
        if not edited <= {*before.column_names}:
            raise RowError("an edit names a column that the source does not have")
        cells = CellGuess(stage, before.column_names)
        rows = to_rows(table.select(sorted(edited.union(cells.columns))))
        results = [apply_edits(row, of_row) for row, of_row in zip(rows, edits, strict=True)]
        for name in edited:
            place, kind = table.schema.get_field_index(name), table.schema.field(name).type
            table = table.set_column(place, name, to_array([row[name] for row, _ in results], kind))
        complete = [
            struct and _complete(struct, row, cells, with_old)
            for struct, row, (_, with_old) in zip(structs, rows, results, strict=True)
        ]
        table = table.append_column(stage.column, pa.array(struct_column(complete)))
    return table


def apply_edits(row: Mapping[str, Any], edits: Sequence[Mapping[str, Any]]) -> tuple[Any, list[dict[str, Any]]]:
    """A row after the edits of a patch, and these edits with the text or ids they replaced (`old`).

    Raises RowError if they do not fit the row.
    """
    by_path: dict[FieldPath, list[Mapping[str, Any]]] = {}
    for edit in edits:
        if edit["column"] is None or edit["start"] is None or edit["length"] is None or edit["new"] is None:
            raise RowError("an edit is incomplete")
        by_path.setdefault(path_of(edit, row), []).append(edit)
    edited: Any = row
    for path, of_path in by_path.items():
        edited = put_at(edited, path, _edited_value(get_at(row, path), of_path))
    return edited, [_with_old(edit, get_at(row, path_of(edit, row))) for edit in edits]


def _edited_value(value: Any, edits: Sequence[Mapping[str, Any]]) -> Any:
    kinds = {edit["kind"] == "ids" for edit in edits}
    found = text_or_ids(value)
    pieces, position = [], 0
    for edit in sorted(edits, key=lambda edit: edit["start"]):
        start, end = edit["start"], edit["start"] + edit["length"]
        if kinds != {not isinstance(found, str)} or not position <= start <= end <= len(found):
            raise RowError("an edit does not fit the row")
        pieces += [found[position:start], edit["new"]]
        position = end
    if isinstance(found, str):
        return "".join([*pieces, found[position:]])
    ids = list(value)
    for edit in edits:
        if edit["length"] != 1 or not edit["new"].isdecimal():
            raise RowError("an edit of token ids must replace one id by another")
        ids[edit["start"]] = int(edit["new"])
    return ids


def _with_old(edit: Mapping[str, Any], value: Any) -> dict[str, Any]:
    start, end = edit["start"], edit["start"] + edit["length"]
    old = value[start:end] if isinstance(value, str) else str(int(value[start]))
    return {**{name: edit[name] for name in ("column", "start", "new", "kind")}, "old": old}
