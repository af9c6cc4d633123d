"""What rows come in: a row, a batch, datasets, tables, files, folders, and anything that yields rows or texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import RowError, SourceError
from ..files.sources import UNFINISHED, find_files, load_source, reading
from ..rows.arrow import is_table, to_rows
from ..rows.formats import Unit, is_batch

Row = Mapping[str, Any]
Choice = Callable[[Sequence[str]], tuple[list[Unit], list[str]]]  # names of columns -> what is read, columns needed
BATCH_ROWS = 256
UNFINISHED_SHARDS = ".toedit/data"  # of a large edit, while it runs


def batches_of(data: Any, choose: Choice) -> Iterator[Sequence[Row]]:
    """The rows of any container, at most BATCH_ROWS at a time, with the columns that `choose` picks of its columns.

    Texts become rows with a `text`. Raises RowError for anything else.
    """
    if isinstance(data, (str, os.PathLike)):
        yield from _of_path(data, choose)
    elif isinstance(data, Mapping):
        yield from _of_mapping(data, choose)
    elif isinstance(data, type):
        raise RowError(f"pass a dataset, rows, texts or a folder, not the class {data.__name__}")
    elif hasattr(data, "select_columns") and hasattr(data, "map"):  # from datasets
        yield from _of_dataset(data, choose)
    elif is_table(data) or type(data).__name__ == "RecordBatch":
        yield from _of_table(data, choose)
    elif hasattr(data, "iloc"):  # from pandas
        yield from _of_frame(data, choose)
    elif isinstance(data, Iterable) and not isinstance(data, (bytes, bytearray)):
        yield from _of_iterable(data, choose)
    else:
        raise RowError(f"pass a dataset, rows, texts or a folder, not {type(data).__name__}")


def _of_mapping(data: Mapping[str, Any], choose: Choice) -> Iterator[Sequence[Row]]:
    """A dict of splits, a batch or a row."""
    if not data:
        return
    if all(hasattr(split, "select_columns") for split in data.values()):
        for split in data.values():
            yield from batches_of(split, choose)
        return
    units, needed = choose(list(data))
    columns = {name: data[name] for name in needed}
    if not is_batch({name: data[name] for unit in units for name in unit.names}, units):
        yield [columns]
        return
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise RowError(f"the columns of this batch differ in length: {lengths}")
    rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
    while batch := list(islice(rows, BATCH_ROWS)):
        yield batch


def _of_dataset(data: Any, choose: Choice) -> Iterator[Sequence[Row]]:
    """The rows of a Dataset, or of a stream, which may not know its columns."""
    if not hasattr(data, "num_rows"):
        some = data if data.column_names is None else data.select_columns(choose(data.column_names)[1])
        yield from _of_iterable(some.with_format(None), choose)
    elif len(data):
        plain = data.select_columns(choose(data.column_names)[1]).with_format("arrow")
        for start in range(0, len(plain), BATCH_ROWS):
            yield to_rows(plain[start : start + BATCH_ROWS])


def _of_table(data: Any, choose: Choice) -> Iterator[Sequence[Row]]:
    """The rows of an Arrow table or record batch."""
    if not data.num_rows:
        return
    import pyarrow as pa

    table = data if is_table(data) else pa.Table.from_batches([data])
    part = table.select(choose(table.column_names)[1])
    for start in range(0, len(part), BATCH_ROWS):
        yield to_rows(part.slice(start, BATCH_ROWS))


def _of_frame(data: Any, choose: Choice) -> Iterator[Sequence[Row]]:
    """The rows of a pandas DataFrame, or the texts of a Series. Missing values are null."""
    from pandas import isna
    from pandas.api.types import is_scalar

    if not len(data):
        return
    frame = data[choose(list(data.columns))[1]] if hasattr(data, "columns") else data.to_frame("text")
    for start in range(0, len(frame), BATCH_ROWS):
        rows = frame.iloc[start : start + BATCH_ROWS].to_dict("records")
        yield [
            {name: None if is_scalar(value) and isna(value) else value for name, value in row.items()} for row in rows
        ]


def _of_iterable(data: Iterable[Any], choose: Choice) -> Iterator[Sequence[Row]]:
    """Rows, texts, parts of a dataset, or Arrow record batches."""
    batch: list[Row] = []
    for item in data:
        if hasattr(item, "select_columns") or type(item).__name__ == "RecordBatch" or is_table(item):
            if batch:
                yield batch
                batch = []
            yield from batches_of(item, choose)
            continue
        batch.append(item if isinstance(item, Mapping) else {"text": item})
        if len(batch) == BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _of_path(path: str | os.PathLike[str], choose: Choice) -> Iterator[Sequence[Row]]:
    """The rows of a file or a folder. Parquet files, such as those of a large edit, are read row group by row group."""
    source = Path(path).expanduser()
    if not source.exists():
        raise SourceError(
            f"there is no file or folder {str(path)!r}: pass texts as a list, [text], and load Hub datasets first"
        )
    files = _parquet_files(source)
    if files is None:
        yield from _of_mapping(load_source(str(source)), choose)
        return
    import pyarrow.parquet as pq

    for file in files:
        with reading(repr(str(file))), pq.ParquetFile(file) as parquet:
            _, needed = choose(parquet.schema_arrow.names)
            for batch in parquet.iter_batches(BATCH_ROWS, columns=needed):
                yield from _of_table(batch, choose)


def _parquet_files(source: Path) -> list[Path] | None:
    """The Parquet files of a source, if it has no others. Of an edit that is not finished, those so far."""
    if (source / UNFINISHED).exists() and not (source / "data").exists():
        return sorted((source / UNFINISHED_SHARDS).glob("*.parquet"))
    found = find_files([str(source)])
    if found is None or found.builder != "parquet":
        return None
    return [Path(file) for files in found.files.values() for file in files]
