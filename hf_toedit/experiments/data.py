"""The first stage of a recipe: load rows from its sources into the columns that training reads."""

from __future__ import annotations

import math
import shutil
import string
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import RowError, SourceError, ToEditError, in_one_line, nearest
from ..files.sources import load_source, stream_source
from .recipe import BUFFER, Data, Fields, Row
from .results import broken

if TYPE_CHECKING:
    from datasets import Dataset

ROWS = "data"  # the name of the dataset in each folder of rows
EDITABLE = "toedit_editable"  # added to mixtures in which a source has `edit: false`
NEW = "new:"  # prefix while filling columns: with the source's name a column would keep the source's Arrow type


def load(data: Sequence[Data], folder: Path) -> None:
    """Write the rows of all sources, one after the other, in the columns that training reads."""
    from datasets import concatenate_datasets

    loaded = [_read(source, folder / f"work-{i}", is_part=len(data) > 1) for i, source in enumerate(data)]
    for source, rows in zip(data, loaded, strict=True):
        if rows.features != loaded[0].features:
            raise RowError(f"{source.source!r} has other columns or types than {data[0].source!r}: see data.columns")
    if not all(source.edit for source in data):
        loaded = [
            rows.add_column(EDITABLE, np.full(len(rows), source.edit))
            for source, rows in zip(data, loaded, strict=True)
        ]
    concatenate_datasets(loaded).save_to_disk(folder / ROWS)
    remove_work(folder)


def read_rows(folder: Path) -> Dataset:
    """The rows that a stage wrote."""
    from datasets import load_from_disk
    from pyarrow.lib import ArrowException

    try:
        return load_from_disk(str(folder / ROWS))
    except (OSError, ValueError, LookupError, TypeError, ArrowException) as error:
        raise broken(folder / ROWS, in_one_line(error)) from error


def remove_work(folder: Path) -> None:
    for path in folder.glob("work*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _read(data: Data, work: Path, *, is_part: bool) -> Dataset:
    """The rows of one source. work: a folder for intermediate files."""
    work.mkdir()
    rows, characters = (_streamed if data.stream else _loaded)(data, work)
    if is_part and characters < (data.characters or 0):
        raise RowError(
            f"{data.source!r} holds fewer than {data.characters:,} characters: the shares of the mixture would change"
        )
    return rows


def _loaded(data: Data, work: Path) -> tuple[Dataset, float]:
    """The rows of a source that is loaded whole, and their number of characters (infinity if it does not matter)."""
    loaded = load_source(data.source, split=data.split, subset=data.subset, revision=data.revision)
    rows = next(iter(loaded.values()))
    _check_columns(data, rows.column_names)
    rows = rows.select_columns(data.fields() or rows.column_names)
    if data.where:
        rows = rows.filter(data.matches, cache_file_name=str(work / "where.arrow"))
        _check_some(data, rows)
    if data.is_cut and data.sample_seed is not None:
        rows = rows.shuffle(seed=data.sample_seed, indices_cache_file_name=str(work / "order.arrow"))
    if data.limit is not None:
        rows = rows.select(range(min(data.limit, len(rows))))

    def fill(row: Row, index: int) -> Fields:
        return {NEW + name: value for name, value in _filled(data, row, index).items()}

    options = {"remove_columns": rows.column_names, "cache_file_name": str(work / "filled.arrow")}
    rows = rows.map(fill, with_indices=True, **options)
    rows = rows.rename_columns({NEW + name: name for name in data.columns})
    if data.characters is None:
        return rows, math.inf
    num_rows, characters = 0, 0
    for row in rows:
        if characters >= data.characters:
            break
        num_rows, characters = num_rows + 1, characters + _characters(row)
    return rows.select(range(num_rows)), characters


def _streamed(data: Data, work: Path) -> tuple[Dataset, float]:
    """Like `_loaded`, but read the source only as far as needed."""
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    stream = stream_source(data.source, split=data.split, subset=data.subset, revision=data.revision)
    _check_columns(data, list(next(iter(stream), {})))
    if data.where:
        stream = stream.filter(data.matches)
        _check_some(data, stream)
    if data.sample_seed is not None:
        stream = stream.shuffle(seed=data.sample_seed, buffer_size=BUFFER)
    characters = 0

    def taken() -> Iterator[Fields]:
        nonlocal characters
        characters = 0
        for index, row in enumerate(stream if data.limit is None else stream.take(data.limit)):
            if characters >= (data.characters or math.inf):
                return
            filled = _filled(data, row, index)
            characters += _characters(filled)
            yield filled

    try:
        return Dataset.from_generator(taken, cache_dir=str(work)), characters
    except DatasetGenerationError as error:
        cause = error.__cause__
        if isinstance(cause, ToEditError):
            raise cause from error
        raise SourceError(f"can't stream {data.source!r}: {in_one_line(cause or error)}") from error


def _check_columns(data: Data, columns: Sequence[str]) -> None:
    missing = [name for name in data.fields() if name not in columns]
    if missing:
        names = ", ".join(map(repr, columns))
        close = nearest(missing[0], columns)
        raise RowError(
            f"{data.source!r} has no column {missing[0]!r} (columns: {names}){close.partition('; known')[0]}"
        )


def _check_some(data: Data, rows: Iterable[Row]) -> None:
    if next(iter(rows), None) is None:
        raise RowError(f"{data.source!r} has no row that matches data.where (types count: put texts in quotes)")


def _filled(data: Data, row: Row, index: int) -> Fields:
    try:
        return {name: _fill(template, row) for name, template in data.columns.items()}
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise RowError(f"row {index} of {data.source!r} does not fit data.columns: {error}") from error


def _characters(row: Row) -> int:
    return sum(len(value) for value in row.values() if isinstance(value, str))


class _Filler(string.Formatter):
    """Fills a template from data.columns. A null is an error, not the word None."""

    def format_field(self, value: object, format_spec: str) -> str:
        if value is None:
            raise ValueError("a field that it needs is null; filter such rows out, or leave the field out")
        formatted: str = super().format_field(value, format_spec)
        return formatted


def _fill(template: str, row: Row) -> Any:
    name = template[1:-1]
    is_lone = template == f"{{{name}}}" and row.get(name) is not None
    return row[name] if is_lone else _Filler().vformat(template, (), row)
