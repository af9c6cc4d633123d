"""Rows as `map` and similar methods pass them to a function: a single row, a batch, or a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .arrow import is_table, to_batch, with_columns
from .formats import Unit, is_batch


def columns_in(rows: Any) -> dict[str, Any]:
    """The columns of rows or of a table, in order."""
    return dict.fromkeys(rows.column_names if is_table(rows) else rows)


def with_changes(
    rows: Any, units: list[Unit], needed: Sequence[str], change: Callable[[Mapping[str, Sequence[Any]]], dict[str, Any]]
) -> Any:
    """The rows with the columns that `change` makes of a batch of them; `datasets` is given these columns alone.

    units: what is read of the rows. needed: the columns that `change` is given.
    """
    if is_table(rows):
        return with_columns(rows, change(to_batch(rows.select(list(needed)))))
    lazy = type(rows).__name__  # datasets' LazyRow and LazyBatch keep columns that are not returned
    batched = lazy == "LazyBatch" or (lazy != "LazyRow" and is_batch(rows, units))
    columns = change({name: rows[name] if batched else [rows[name]] for name in needed})
    if not batched:
        columns = {name: _only(values, lazy == "LazyRow") for name, values in columns.items()}
    return columns if lazy in ("LazyRow", "LazyBatch") else {**rows, **columns}


def _only(values: Any, keep_type: bool) -> Any:
    """The one value of a column; as an array, if that is how it keeps its type."""
    return values.__arrow_array__() if keep_type and hasattr(values, "__arrow_array__") else values[0]
