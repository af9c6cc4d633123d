"""Which columns of a dataset are read: those that were named, or those of its format."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..errors import RowError, nearest
from .formats import ALTERNATIVES, TEMPLATE_COLUMNS, Unit, advice, shape_of
from .tokens import MASKS


def units_of(names: Sequence[str], columns: Sequence[str] | None, context: Sequence[str]) -> list[Unit]:
    """What to read of rows with these column names.

    columns, context: as in ToEditTransform; None for the columns of the format. Raises RowError if a column is missing.
    """
    if not columns:
        unit = shape_of(names)
        units = [unit] if unit else []
    elif context and set(ALTERNATIVES) <= set(columns):
        units = [Unit(tuple(context), (name,)) for name in columns]
    elif context:
        units = [Unit(tuple(context), tuple(columns))]
    else:
        follow = MASKS if "input_ids" in columns else ()  # labels are rewritten with the ids
        units = [Unit((), (name,)) for name in columns if name not in follow]
    if not units and (call := advice(names)):
        raise RowError(call)
    missing = [name for unit in units for name in unit.names if name not in names]
    if missing or not units:
        what = f"no column {missing[0]!r}{nearest(missing[0], names)}" if missing else "no text column"
        fix = "context=" if missing and missing[0] in context else "columns="
        raise RowError(f"{what} (columns: {', '.join(map(repr, names))}): set {fix}")
    return units


def columns_needed(names: Collection[str], units: Sequence[Unit]) -> list[str]:
    """The columns to read for these units, with the masks of ids and what templates are given, where rows have them."""
    needed = list(dict.fromkeys(name for unit in units for name in unit.names))
    masks = MASKS if "input_ids" in needed else ()
    return [*needed, *(name for name in (*masks, *TEMPLATE_COLUMNS) if name in names and name not in needed)]
