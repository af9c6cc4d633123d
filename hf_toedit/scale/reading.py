"""The rows of a unit, as `load_source` would read them, without the rest of the source."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import SourceError, any_of, no_room, one_clear_line
from ..files.sources import COMPRESSED
from ..files.textfiles import EncodingErrors
from .job import Job
from .json_lines import CHUNK_BYTES, Copy, count_rows, line_ends
from .plan import SourceFile, Unit
from .storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features

BATCH_ROWS = 1000
PIECE_BYTES = 8 << 20  # what is copied at a time
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
        storage: Storage,
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

        with unreadable(f"can't read the copied rows in {file.path!r}", "remove the output and start again"):
            return Dataset(pq.read_table(pa.BufferReader(self.storage.read(file.path))))

    def _parquet(self, file: SourceFile, unit: Unit) -> pa.Table:
        from datasets.table import table_cast

        rows = "" if unit.stop < 0 else f" rows {unit.start + 1:,} to {unit.stop:,}"
        what = f"can't read {shown(file.path)}{rows}"
        with unreadable(what, "restore the file"), opened(file.path) as source:
            table = _rows_of(source, unit.start, unit.stop, from_hub=file.path.startswith(HUB))
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
            with opened(file.path) as source:
                ends = [0, *line_ends(source, file.num_bytes, CHUNK_BYTES)]
            first, last = max(end for end in ends if end <= start), min(end for end in ends if end >= stop)
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
        """The rows of a copy in `scratch` of a file from byte `start` on."""
        copy = Copy(part, scratch, shown(path), lambda: count_lines(path, start))
        return copy.rows(self.features, self.errors)


def suffix_of(path: str) -> str:
    """`.jsonl.gz` and the like for a compressed file; empty for others."""
    suffix = Path(path).suffix
    return f".jsonl{suffix}" if suffix in COMPRESSED else ""


def shown(path: str) -> str:
    """A path as messages name it: relative if it is in the current folder."""
    inside = not path.startswith(HUB) and Path(path).is_relative_to(Path.cwd())
    return repr(os.path.relpath(path) if inside else path)


def unreadable(what: str, fix: str) -> one_clear_line:
    from datasets.table import CastError
    from pyarrow.lib import ArrowException

    broken = any_of(ArrowException, CastError, OSError, ValueError, TypeError)
    return one_clear_line(
        SourceError, what, fix, catches=lambda error: broken(error) and no_room(error) is None, says=_reason
    )


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]


# files here and on the Hub


def opened(path: str) -> IO[bytes]:
    """A file, here or on the Hub. From the Hub, a request brings what is read, or 64 KiB if that is more."""
    if not path.startswith(HUB):
        return Path(path).open("rb")
    from huggingface_hub import HfFileSystem

    return io.BufferedReader(HfFileSystem().open(path, "rb", cache_type="none"), 1 << 16)


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
        how = f"it has {now[0]:,} bytes, not {file.num_bytes:,}" if now[0] != file.num_bytes else "it was written again"
        raise SourceError(
            f"{name} has changed since the edit began ({how}): restore it with its modification time, as with `cp -p`, "
            "or start again with a new output"
        )


# rows of Parquet files


def _rows_of(file: IO[bytes], start: int, stop: int, *, from_hub: bool) -> pa.Table:
    """The rows [start, stop) of a Parquet file; all if stop is -1. Reads the row groups that have some of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(file, buffer_size=PIECE_BYTES if from_hub else 1 << 20)
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


def copy_range(path: str, start: int, stop: int, copy: Path) -> None:
    """Copy the bytes [start, stop) of a file."""
    with unreadable(f"can't read {shown(path)}", ""), opened(path) as source, copy.open("wb") as target:
        source.seek(start)
        left = stop - start
        while left > 0 and (piece := source.read(min(left, PIECE_BYTES))):
            target.write(piece)
            left -= len(piece)


def count_lines(path: str, stop: int) -> int:
    """The number of lines in the first bytes of a file."""
    number = 0
    with opened(path) as file:
        while stop > 0 and (piece := file.read(min(stop, PIECE_BYTES))):
            number += piece.count(b"\n")
            stop -= len(piece)
    return number
