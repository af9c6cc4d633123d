"""The rows of a patch: edits with lengths in place of text, and applying them to the rows of the source.

There is a row for each row of the edited dataset. It has the row's place in the source, the first 32 bits of a digest
of the source's row, and its `toedit` structs, without what can be computed from the source: `digest`, and what an edit
replaced (`old`), of which it has the `length`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RowError
from ..rows.column import digest_of, text_or_ids, typed
from ..rows.paths import FieldPath, get_at, path_of, put_at
from ..rows.revert import revert

if TYPE_CHECKING:
    from datasets import Dataset

BATCH = 1000  # rows
PLACE, DIGEST = "source_row", "source_digest"
Digests = NDArray[np.uint64]


def schema(stages: Sequence[str]) -> Any:
    """The Arrow schema of a patch's rows. stages: the names of the `toedit` columns."""
    import pyarrow as pa

    edit = pa.struct(
        {"column": pa.string(), "start": pa.int64(), "length": pa.int64(), "new": pa.string(), "kind": pa.string()}
    )
    kept = [field for field in typed([]).type if field.name not in ("digest", "edits")]
    struct = pa.struct([*kept, pa.field("edits", pa.list_(edit))])
    return pa.schema([(PLACE, pa.int64()), (DIGEST, pa.uint32()), *((name, struct) for name in stages)])


def tables(rows: Dataset, columns: Sequence[str]) -> Iterator[Any]:
    """Some columns of a dataset as Arrow tables of BATCH rows."""
    yield from rows.select_columns(list(columns)).with_format("arrow").iter(BATCH)


def patch_rows(edited: Any, places: NDArray[np.int64], digests: Digests) -> Any:
    """A table of patch rows. edited: a table of `toedit` columns. places, digests: of these rows in the source."""
    import pyarrow as pa

    structs = [[_without_text(struct) for struct in column.to_pylist()] for column in edited.columns]
    target = schema(edited.column_names)
    columns = zip((places, first_bits(digests), *structs), target.types, strict=True)
    return pa.table([pa.array(values, kind) for values, kind in columns], schema=target)


def _without_text(struct: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if struct is None:
        return None
    edits = [{**edit, "length": len(edit["old"])} for edit in struct["edits"] or ()]
    for edit in edits:
        del edit["old"]
    return {**{name: value for name, value in struct.items() if name != "digest"}, "edits": edits}


# Digests.


def digests(rows: Dataset, columns: Sequence[str]) -> Digests:
    """A digest of each row's columns. Images, audio and the like are left out: their paths differ between machines."""
    columns = _comparable(rows, columns)
    return _joined(_digests(table.to_pylist()) for table in tables(rows, columns))


def digests_before(rows: Dataset, columns: Sequence[str], stages: Sequence[str]) -> Digests:
    """The digests of edited rows as they were before the edits. Raises RowError if a row changed after editing."""
    columns = _comparable(rows, columns)
    return _joined(_digests(_before(table.to_pydict(), columns, stages)) for table in tables(rows, [*columns, *stages]))


def _before(batch: dict[str, Any], columns: Sequence[str], stages: Sequence[str]) -> list[dict[str, Any]]:
    for stage in reversed(stages):
        batch = revert(batch, stage)
    return [dict(zip(columns, values, strict=True)) for values in zip(*(batch[name] for name in columns), strict=True)]


def _comparable(rows: Dataset, columns: Sequence[str]) -> list[str]:
    from datasets.features.features import require_decoding

    return [name for name in columns if not require_decoding(rows.features[name])]


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


def applied(before: Any, patch: Any) -> Any:
    """A table of source rows after the edits of a table of patch rows, with the `toedit` columns at the end.

    Raises RowError if the edits do not fit the rows.
    """
    import pyarrow as pa

    table = before
    for stage in patch.column_names[2:]:
        structs = patch[stage].to_pylist()
        edits = [(struct or {}).get("edits") or [] for struct in structs]
        names = {str(path_of(edit, table.column_names)[0]) for of_row in edits for edit in of_row}
        if not names <= {*before.column_names}:
            raise RowError("an edit names a column that the source does not have")
        rows = table.select(sorted(names)).to_pylist() if names else [{}] * len(table)
        edited = [apply_edits(row, of_row) for row, of_row in zip(rows, edits, strict=True)]
        for name in names:
            field = table.schema.field(name)
            values = pa.chunked_array([pa.array([row[name] for row, _ in edited], field.type)])
            table = table.set_column(table.schema.get_field_index(name), field, values)
        for struct, row, (_, complete) in zip(structs, rows, edited, strict=True):
            if struct is not None:
                struct |= {"edits": complete, "digest": digest_of(row, complete)}
        table = table.append_column(stage, pa.chunked_array([typed(structs)]))
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
