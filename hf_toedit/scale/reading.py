"""The rows of a unit, as `load_source` would read them, without the rest of the source."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import SourceError, any_of, one_clear_line
from ..files.sources import COMPRESSED, reading
from ..files.textfiles import EncodingErrors, malformed_json, open_bytes, readable
from .job import Job
from .plan import SourceFile, Unit
from .storage import LocalFolder

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features

CHUNK_BYTES = 10 << 20  # `datasets` infers the types of JSON anew for each chunk of this size, up to the end of a line
BATCH_ROWS = 1000
HUB = "hf://"


def read_unit(job: Job, number: int) -> Dataset:
    """The rows of a unit.

    Raises SourceError if the file is gone, has changed since the plan was made, or can't be read.
    """
    plan = job.plan
    unit_bytes, errors = plan.request.get("unit_bytes", CHUNK_BYTES), plan.request.get("encoding_errors", "strict")
    return Reader(job.storage, plan.as_features(), plan.files, unit_bytes, errors).read(plan.units[number])


class Reader:
    """Reads units of one plan.

    storage: with the rows that were copied. unit_bytes: that the plan was made with. errors: for bytes that are not
        UTF-8, and lone surrogates.
    """

    def __init__(
        self,
        storage: LocalFolder,
        features: Features,
        files: Sequence[SourceFile],
        unit_bytes: int,
        errors: EncodingErrors,
    ) -> None:
        self.storage, self.features, self.files, self.errors = storage, features, files, errors
        self.has_whole_chunks = unit_bytes >= CHUNK_BYTES

    def read(self, unit: Unit) -> Dataset:
        """The rows of a unit. Raises SourceError: see `read_unit`."""
        import pyarrow as pa
        from datasets import Dataset, DatasetInfo

        tables = []
        for file in self.files[unit.file : unit.file + unit.num_files]:
            if not os.path.isabs(file.path) and not file.path.startswith(HUB):
                return self._spooled(file)
            check_same_file(file)
            tables.append(self._parquet(file, unit) if file.kind == "parquet" else self._json(file, unit))
            check_same_file(file)
        return Dataset(pa.concat_tables(tables), DatasetInfo(features=self.features))

    def _spooled(self, file: SourceFile) -> Dataset:
        """The rows that were copied to the work folder, each file a unit."""
        import pyarrow as pa
        import pyarrow.parquet as pq
        from datasets import Dataset

        with unreadable(f"the copied rows in {file.path!r}", "remove the output and start again"):
            return Dataset(pq.read_table(pa.BufferReader(self.storage.read(file.path))))

    def _parquet(self, file: SourceFile, unit: Unit) -> pa.Table:
        from datasets.table import table_cast

        rows = "" if unit.stop < 0 else f" rows {unit.start + 1:,} to {unit.stop:,}"
        what = f"can't read {shown(file.path)}{rows}"
        with unreadable(what, "restore the file"), opened(file.path) as source:
            table = _rows_of(source, unit.start, unit.stop)
        with unreadable(what, "all files must have the columns of the first one"):
            return table_cast(table, self.features.arrow_schema)

    def _json(self, file: SourceFile, unit: Unit) -> pa.Table:
        """The lines in a range of bytes, or of the whole file."""
        with self.storage.scratch() as scratch:
            part = scratch / f"part{suffix_of(file.path) or '.jsonl'}"
            start, stop = unit.start, file.num_bytes if unit.stop < 0 else unit.stop
            if self.has_whole_chunks or unit.stop < 0:
                copy_range(file.path, start, stop, part)
                return self._lines(file.path, part, start, scratch)
            first, last = chunks_around(file.path, file.num_bytes, start, stop)
            copy_range(file.path, first, last, part)
            table = self._lines(file.path, part, first, scratch)
            skipped, taken, total = count_rows(part, start - first, stop - first)
            if len(table) != total:
                raise SourceError(
                    f"{shown(file.path)} has {len(table):,} rows in {total:,} lines: put each row in a line of its "
                    "own, or read more at a time with --unit-size 128MB"
                )
            return table.slice(skipped, taken)

    def _lines(self, path: str, part: Path, start: int, scratch: Path) -> pa.Table:
        """The rows of a file in `scratch`, a copy of a file from byte `start` on."""
        name = shown(path)

        def lines_before() -> int:
            return count_lines(path, start)

        text = readable(part, scratch, is_json=True, errors=self.errors, name=name, lines_before=lines_before)
        with open_bytes(text) as lines:
            if not any(line.strip() for line in lines):
                return self.features.arrow_schema.empty_table()
        loaded = load_json(text, scratch, name, lines_before, features=self.features, keep_in_memory=True)
        table: pa.Table = loaded.data.table
        return table


def load_json(text: Path, scratch: Path, name: str, lines_before: Callable[[], int] = lambda: 0, **options: Any) -> Any:
    """What `load_dataset` gives for a file of JSON Lines. name, lines_before: see `readable`.

    Raises SourceError, with the line where it is found.
    """
    from datasets import load_dataset

    files = {"train": [str(text)]}
    try:
        with quiet(), reading(name):
            return load_dataset(
                "json",
                data_files=files,
                split="train",
                cache_dir=str(scratch / "cache"),
                chunksize=CHUNK_BYTES,
                **options,
            )
    except SourceError as error:
        if problem := malformed_json(text, lines_before):
            raise SourceError(f"{name} {problem}") from error
        raise


def suffix_of(path: str) -> str:
    """`.jsonl.gz` and the like for a compressed file; empty for others."""
    suffix = Path(path).suffix
    return f".jsonl{suffix}" if suffix in COMPRESSED else ""


def shown(path: str) -> str:
    """A path as messages name it: relative if it is in the current folder."""
    inside = not path.startswith(HUB) and Path(path).is_relative_to(Path.cwd())
    return repr(os.path.relpath(path) if inside else path)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of `datasets`."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def unreadable(what: str, fix: str) -> one_clear_line:
    from datasets.table import CastError
    from pyarrow.lib import ArrowException

    return one_clear_line(
        SourceError, what, fix, catches=any_of(ArrowException, CastError, OSError, ValueError, TypeError), says=_reason
    )


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]


# files here and on the Hub


def opened(path: str) -> IO[bytes]:
    """A file, here or on the Hub."""
    if not path.startswith(HUB):
        return Path(path).open("rb")
    from huggingface_hub import HfFileSystem

    file: IO[bytes] = HfFileSystem().open(path, "rb")
    return file


def look_at(path: str) -> tuple[int, str]:
    """The size of a file in bytes, and what changes with its content. Raises OSError if it is gone."""
    if not path.startswith(HUB):
        found = Path(path).stat()
        return found.st_size, str(found.st_mtime_ns)
    from huggingface_hub import HfFileSystem

    info: dict[str, Any] = HfFileSystem().info(path)
    return info["size"], str(info["blob_id"])


def check_same_file(file: SourceFile) -> None:
    """Raise SourceError if a file is not what it was when the plan was made."""
    name = shown(file.path)
    with one_clear_line(SourceError, f"can't read {name}", "restore it", catches=any_of(OSError), says=_reason):
        now = look_at(file.path)
    if now != (file.num_bytes, file.state):
        how = f"has {now[0]:,} bytes, not {file.num_bytes:,}" if now[0] != file.num_bytes else "was written again"
        raise SourceError(
            f"{name} has changed since the edit began ({how}): restore it, or start again with a new output"
        )


# rows of Parquet files


def _rows_of(file: IO[bytes], start: int, stop: int) -> pa.Table:
    """The rows [start, stop) of a Parquet file; all if stop is -1. Reads the row groups that have some of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(file, buffer_size=1 << 20)
    groups = [parquet.metadata.row_group(number).num_rows for number in range(parquet.metadata.num_row_groups)]
    ends = list(itertools.accumulate(groups))
    stop = sum(groups) if stop < 0 else stop
    wanted = [i for i, end in enumerate(ends) if end > start and end - groups[i] < stop]
    if not wanted:
        return parquet.schema_arrow.empty_table()
    first = ends[wanted[0]] - groups[wanted[0]]
    batches = []
    for batch in parquet.iter_batches(BATCH_ROWS, row_groups=wanted):
        if first + len(batch) > start:
            batches.append(batch.slice(max(0, start - first), min(stop - max(start, first), len(batch))))
        first += len(batch)
        if first >= stop:
            break
    return pa.Table.from_batches(batches, parquet.schema_arrow)


# lines of JSON files


def line_ends(file: IO[bytes], size: int, step: int) -> list[int]:
    """Where chunks of a file end: at the first end of a line after `step` bytes, as `datasets` reads JSON Lines."""
    ends = [0]
    while ends[-1] + step < size:
        file.seek(ends[-1] + step)
        while (piece := file.readline(1 << 20)) and not piece.endswith(b"\n"):
            pass
        ends.append(file.tell())
    return [*ends[1:], size] if ends[-1] < size else ends[1:]


def chunks_around(path: str, size: int, start: int, stop: int) -> tuple[int, int]:
    """The start and end of the chunks of `datasets` that hold a range of a file."""
    with opened(path) as file:
        ends = [0, *line_ends(file, size, CHUNK_BYTES)]
    return max(end for end in ends if end <= start), min(end for end in ends if end >= stop)


def copy_range(path: str, start: int, stop: int, copy: Path) -> None:
    """Copy the bytes [start, stop) of a file."""
    with unreadable(f"can't read {shown(path)}", ""), opened(path) as source, copy.open("wb") as target:
        source.seek(start)
        left = stop - start
        while left > 0 and (piece := source.read(min(left, 1 << 20))):
            target.write(piece)
            left -= len(piece)


def count_lines(path: str, stop: int) -> int:
    """The number of lines in the first bytes of a file."""
    number = 0
    with opened(path) as file:
        while stop > 0 and (piece := file.read(min(stop, 1 << 20))):
            number += piece.count(b"\n")
            stop -= len(piece)
    return number


def count_rows(part: Path, start: int, stop: int) -> tuple[int, int, int]:
    """The number of lines that aren't blank before the byte `start`, from there to `stop`, and in all."""
    counts, place = [0, 0, 0], 0
    with part.open("rb") as file:
        for line in file:
            if line.strip():
                counts[0 if place < start else 1 if place < stop else 2] += 1
            place += len(line)
    return counts[0], counts[1], sum(counts)
