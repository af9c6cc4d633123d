"""`hf-toedit revert`: a dataset before its edits."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from ..errors import RowError
from ..files.outputs import WORK_FOLDER, new_folder
from ..files.sources import save_dataset
from ..rows.column import added_columns
from ..rows.revert import revert as revert_rows
from .options import Out, SourceNames, Split, StatsColumn, read_source, say_where

if TYPE_CHECKING:
    from datasets import Dataset


def revert(source: SourceNames, out: Out, split: Split = None, stats_column: StatsColumn = "toedit") -> None:
    """Undo the edits of a dataset, into a new folder."""
    with new_folder(out) as folder:
        dataset = read_source(source, split=split)
        work = folder / WORK_FOLDER
        reverted = {name: _revert(rows, stats_column, work / f"{name}.arrow") for name, rows in dataset.items()}
        save_dataset(type(dataset)(reverted), folder)
    say_where(Console(), out, f"load_dataset({str(out)!r})")


def _revert(rows: Dataset, stats_column: str, cache: Path) -> Dataset:
    """The rows before their edits; columns without an edit are not touched."""
    if stats_column not in rows.column_names:
        raise RowError(
            f"no column {stats_column!r} (columns: {', '.join(map(repr, rows.column_names))}): nothing to revert"
        )
    features, removed = rows.features.copy(), [stats_column, *added_columns(rows, stats_column)]
    for name in removed:
        del features[name]
    return rows.map(
        functools.partial(revert_rows, stats_column=stats_column),
        batched=True,
        remove_columns=removed,
        features=features,
        cache_file_name=str(cache),
    )
