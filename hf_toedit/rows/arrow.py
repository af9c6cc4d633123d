"""Arrow tables as Python values and back. JSON, which `datasets` stores as text, is read and written."""

from __future__ import annotations

from typing import Any


def is_table(rows: object) -> bool:
    """Whether rows come as a pyarrow Table."""
    import pyarrow as pa

    return isinstance(rows, pa.Table)


def to_batch(table: Any) -> dict[str, list[Any]]:
    """The columns of a table. Images and the like stay as they are stored."""
    return {
        name: [_read(value, kind) for value in values] if _has_json(kind) else values
        for name, kind, values in zip(table.column_names, table.schema.types, table.to_pydict().values(), strict=True)
    }


def to_rows(table: Any) -> list[dict[str, Any]]:
    """The rows of a table, as in `to_batch`."""
    if not any(map(_has_json, table.schema.types)):
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows
    batch = to_batch(table)
    return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]


def to_array(values: list[Any], kind: Any) -> Any:
    """An Arrow array of values as `to_batch` gives them.

    kind: their Arrow type. Extension types, such as JSON, are replaced by their storage; `map` casts them back.
    """
    import pyarrow as pa

    return pa.array([_written(value, kind) for value in values] if _has_json(kind) else values, _storage(kind))


def with_columns(table: Any, columns: dict[str, list[Any]]) -> Any:
    """The table with other values in some of its columns, and with new columns at the end.

    Columns keep their types, except that extension types are replaced by their storage, and Ray's tensors by lists.
    """
    import pyarrow as pa

    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        if place < 0:
            table = table.append_column(name, pa.array(values))
        else:
            field = table.schema.field(place)
            array = to_array(values, _without_shapes(field.type))
            table = table.set_column(place, field.with_type(array.type), array)
    return table


def _without_shapes(kind: Any) -> Any:
    """A list in place of Ray's tensor of ragged rows, which is stored as their data and shapes."""
    import pyarrow as pa

    if not isinstance(kind, pa.BaseExtensionType) or not pa.types.is_struct(kind.storage_type):
        return kind
    return kind.storage_type.field("data").type


def _parts(kind: Any) -> list[Any]:
    """The types within a struct or a list."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return []
    return [kind.field(i).type for i in range(kind.num_fields)]


def _is_json(kind: Any) -> bool:
    return bool(getattr(kind, "extension_name", None) == "arrow.json")


def _has_json(kind: Any) -> bool:
    return _is_json(kind) or any(map(_has_json, _parts(kind)))


def _read(value: Any, kind: Any) -> Any:
    from datasets import Json

    return _mapped(Json().decode_example, value, kind)


def _written(value: Any, kind: Any) -> Any:
    from datasets import Json

    return _mapped(Json().encode_example, value, kind)


def _mapped(function: Any, value: Any, kind: Any) -> Any:
    """A value with a function of its JSON in place of it."""
    if value is None or not _has_json(kind):
        return value
    if _is_json(kind):
        return function(value)
    if isinstance(value, dict):
        return {field.name: _mapped(function, value.get(field.name), field.type) for field in kind}
    return [_mapped(function, inner, kind.value_type) for inner in value]


def _storage(kind: Any) -> Any:
    """An Arrow type with the storage of extension types in their place."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return kind.storage_type
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_storage(field.type)) for field in kind])
    for is_list, list_of in ((pa.types.is_list, pa.list_), (pa.types.is_large_list, pa.large_list)):
        if is_list(kind):
            return list_of(kind.value_field.with_type(_storage(kind.value_type)))
    return kind
