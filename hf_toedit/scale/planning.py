"""From SOURCE to units: which files are read in which parts, without reading their rows."""

from __future__ import annotations

import codecs
import dataclasses
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, SourceError
from ..files.sources import DataFiles, find_files, load_source, reading
from ..files.textfiles import EncodingErrors, open_bytes
from ..hub.source import ID, Source
from .job import SOURCE
from .json_lines import CHUNK_BYTES, Copy, line_ends, quiet
from .plan import SourceFile, Unit
from .reading import HUB, Reader, look_at, opened, shown, suffix_of, unreadable
from .storage import Storage, digest_of

if TYPE_CHECKING:
    from datasets import Dataset, Features

UNIT_BYTES = 128 << 20  # of a unit's rows: in the file for JSON, else in memory
PACKED = 4  # how many times larger compressed files are once they are read: a guess
THREADS = 16  # that read the footers of Parquet files
SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclasses.dataclass(frozen=True)
class Planned:
    """What a source becomes.

    features: as `Features.to_dict` gives them. empty_splits: those without rows, which are left out.
    source: where the rows come from, for the card; None for stdin and for several files.
    """

    features: Mapping[str, Any]
    files: tuple[SourceFile, ...]
    units: tuple[Unit, ...]
    empty_splits: tuple[str, ...] = ()
    source: Source | None = None

    def as_features(self) -> Features:
        from datasets import Features

        return Features.from_dict(dict(self.features))

    def read(self, storage: Storage, unit_bytes: int, errors: EncodingErrors) -> Iterator[Dataset]:
        """The rows of each unit, one after another."""
        return map(Reader(storage, self.as_features(), self.files, unit_bytes, errors).read, self.units)


@dataclasses.dataclass(frozen=True)
class Part:
    """What may become a unit: the range of a file, as in a Unit. num_bytes: of its rows."""

    file: int
    start: int
    stop: int
    num_bytes: int
    is_whole: bool


def plan_source(
    sources: Sequence[str],
    storage: Storage,
    *,
    split: str | None = None,
    subset: str | None = None,
    limit: int | None = None,
    encoding_errors: EncodingErrors = "strict",
    unit_bytes: int = UNIT_BYTES,
) -> Planned:
    """Divide the rows that `load_source` would give into units.

    Parquet and JSON Lines stay where they are, here or on the Hub. Everything else, and parts of splits, are loaded and
    copied to the work folder in `storage`.
    unit_bytes: about how much a unit holds. Compressed JSON is not divided.

    Raises SourceError: see `load_source`.
    """
    found = find_files(sources, subset)
    source = None if found is None else source_in(found, sources)
    planned = None
    if found is not None and (split is None or split in found.files):
        wanted = list(found.files) if split is None else [split]
        if found.builder == "parquet":
            planned = _plan_parquet(found, wanted, limit, unit_bytes)
        elif found.builder == "json":
            planned = _plan_json(found, wanted, limit, unit_bytes, encoding_errors, storage)
    if planned is None:
        options: dict[str, Any] = {"split": split, "subset": subset, "limit": limit, "encoding_errors": encoding_errors}
        revision = None if source is None or source.is_local else source.revision
        loaded = load_source(sources, revision=revision, **options)
        planned = spool(((str(name), rows) for name, rows in loaded.items()), storage, unit_bytes)
    return dataclasses.replace(planned, source=source)


def source_in(found: DataFiles, sources: Sequence[str]) -> Source | None:
    """Where the rows come from: on the Hub with the commit; None for several files."""
    if len(sources) > 1:
        return None
    given = Source.parse(sources[0])
    url = next((file for files in found.files.values() for file in files if file.startswith(HUB)), "")
    pinned = re.match(f"{HUB}datasets/{re.escape(given.id)}@([0-9a-f]{{40}})/", url)
    if pinned and given.revision in (None, pinned[1]):
        return Source(given.id, pinned[1], found.subset)
    return given


# what a second call compares


def files_read(sources: Sequence[str], subset: str | None = None) -> dict[str, tuple[int, str]]:
    """The size and state of each file of a SOURCE; empty for stdin and for the Hub, where a plan names the commit.

    Raises SourceError: see `find_files`.
    """
    if len(sources) == 1 and ID.fullmatch(sources[0].partition("@")[0]) and not Source.parse(sources[0]).is_local:
        return {}
    found = find_files(sources, subset)
    paths = [] if found is None else itertools.chain.from_iterable(found.files.values())
    with unreadable("can't read the source", "restore it"):
        return {path: look_at(path) for path in paths if not path.startswith(HUB)}


def check_same_files(before: Mapping[str, Sequence[Any]], now: Mapping[str, Sequence[Any]]) -> None:
    """Raise SourceError, with a file that differs, unless `files_read` gave the same before."""
    differing = [path for path in before.keys() | now.keys() if tuple(before.get(path, ())) != tuple(now.get(path, ()))]
    if not differing:
        return
    path = min(differing)
    how = "is new" if path not in before else "is gone" if path not in now else "has changed"
    fix = "remove" if path not in before else "restore"
    more = f" (and so on: {len(differing):,} files differ)" if differing[1:] else ""
    raise SourceError(
        f"the source is not what it was when the edit began: {shown(path)} {how}{more}: {fix} it, or name another "
        "output folder"
    )


# rows that are copied


def spool(parts: Iterable[tuple[str, Dataset]], storage: Storage, unit_bytes: int = UNIT_BYTES) -> Planned:
    """Copy rows to the work folder as Parquet, a file for each unit. parts: splits, in order, or parts of them."""
    files: list[SourceFile] = []
    units: list[Unit] = []
    features: dict[str, Any] = {}
    shards: Counter[str] = Counter()
    for split, rows in parts:
        shards[split] += 0
        features = features or rows.features.to_dict()
        size = max(1, len(rows) * unit_bytes // max(1, rows.data.nbytes))
        for start in range(0, len(rows), size):
            part = rows.select(range(start, min(start + size, len(rows))))
            name = f"{SOURCE}/{split}-{shards[split]:05d}.parquet"
            with storage.scratch() as scratch, quiet():
                part.to_parquet(str(scratch / "rows.parquet"))
                state = digest_of(scratch / "rows.parquet")
                storage.put(scratch / "rows.parquet", name)
            files.append(SourceFile(name, "parquet", storage.size(name), state))
            units.append(Unit(split, shards[split], len(files) - 1, 0, len(part)))
            shards[split] += 1
    empty = tuple(split for split, number in shards.items() if not number)
    return Planned(features, tuple(files), tuple(units), empty)


# Parquet


def _plan_parquet(found: DataFiles, wanted: Sequence[str], limit: int | None, unit_bytes: int) -> Planned:
    from datasets import Features

    first = next(file for files in found.files.values() for file in files)
    features = found.features or Features.from_arrow_schema(_footer(first).schema)
    files: list[SourceFile] = []
    units: list[Unit] = []
    empty = []
    for split in wanted:
        left = limit
        parts: list[Part] = []
        for footer in _footers(found.files[split]):
            _check_columns(footer, features, first)
            num_rows = sum(rows for rows, _ in footer.groups)
            if num_rows:
                files.append(footer.file)
                parts += _parquet_parts(len(files) - 1, footer.groups, num_rows if left is None else left, unit_bytes)
            if left is not None and (left := left - num_rows) <= 0:
                break
        units += _units(split, parts, unit_bytes)
        if not parts:
            empty.append(split)
    if not units:
        raise SourceError(f"{shown(first)} has no rows")
    return Planned(features.to_dict(), tuple(files), tuple(units), tuple(empty))


@dataclasses.dataclass(frozen=True)
class Footer:
    """What the end of a Parquet file says. groups: rows and bytes of each row group."""

    file: SourceFile
    schema: Any
    groups: list[tuple[int, int]]


def _footer(path: str) -> Footer:
    import pyarrow.parquet as pq

    with unreadable(f"can't read {shown(path)}", "it is cut off, or is not Parquet: restore it"):
        file = SourceFile(path, "parquet", *look_at(path))
        with opened(path) as source:
            parquet = pq.ParquetFile(source)
            about = [parquet.metadata.row_group(number) for number in range(parquet.metadata.num_row_groups)]
            return Footer(file, parquet.schema_arrow, [(group.num_rows, group.total_byte_size) for group in about])


def _footers(paths: Sequence[str]) -> Iterator[Footer]:
    """The footers of files, in order, each when it is needed."""
    if not paths[0].startswith(HUB):
        yield from map(_footer, paths)
        return
    with ThreadPoolExecutor(THREADS) as threads:
        for start in range(0, len(paths), THREADS):
            yield from threads.map(_footer, paths[start : start + THREADS])


def _check_columns(footer: Footer, features: Features, first: str) -> None:
    if more := [name for name in footer.schema.names if name not in features]:
        raise SourceError(
            f"{shown(footer.file.path)} has a column {more[0]!r}, which {shown(first)} does not have: give files with "
            "the same columns"
        )


def _parquet_parts(file: int, groups: Sequence[tuple[int, int]], limit: int, unit_bytes: int) -> list[Part]:
    """Parts of a file that end with a row group where these are small."""
    cuts, row, size = [(0, 0.0)], 0, 0.0  # each a row, and the bytes before it
    total = 0.0
    for rows, num_bytes in groups:
        pieces = max(1, min(rows, ceil(num_bytes / unit_bytes)))
        if size and size + num_bytes > unit_bytes:
            cuts.append((row, total))
            size = 0
        for piece in range(1, pieces):
            cuts.append((row + rows * piece // pieces, total + num_bytes * piece / pieces))
            size = 0
        size += num_bytes / pieces
        row, total = row + rows, total + num_bytes
    cuts.append((row, total))
    return [
        Part(file, start, min(stop, limit), ceil(after - before), start == 0 and stop == row <= limit)
        for (start, before), (stop, after) in itertools.pairwise(cuts)
        if start < min(stop, limit)
    ]


def _units(split: str, parts: Sequence[Part], unit_bytes: int) -> list[Unit]:
    """A unit for each part, and one for several small files in a row."""
    groups: list[list[Part]] = []
    for part in parts:
        together = [*groups[-1], part] if groups else []
        if together and all(one.is_whole for one in together) and sum(one.num_bytes for one in together) <= unit_bytes:
            groups[-1] = together
        else:
            groups.append([part])
    return [
        Unit(split, shard, first.file, first.start, -1 if more else first.stop, 1 + len(more))
        for shard, (first, *more) in enumerate(groups)
    ]


# JSON


def _plan_json(
    found: DataFiles,
    wanted: Sequence[str],
    limit: int | None,
    unit_bytes: int,
    errors: EncodingErrors,
    storage: Storage,
) -> Planned | None:
    """None if the source isn't JSON Lines, or has to be read whole for another reason."""
    files_of = {split: [_json_file(path) for path in paths] for split, paths in found.files.items()}
    full = {split: [file for file in files if file.num_bytes] for split, files in files_of.items()}
    if not any(full[split] for split in wanted):
        return None
    first = next(file for files in full.values() for file in files)
    features = _json_features(first.path, errors, storage)
    if features is None:
        return None
    features = found.features or features
    files: list[SourceFile] = []
    units: list[Unit] = []
    copied: list[Iterator[tuple[str, Dataset]]] = []
    for split in wanted:
        numbered = range(len(files), len(files) + len(full[split]))
        files += full[split]
        size = unit_bytes if limit is None else CHUNK_BYTES
        parts = itertools.chain.from_iterable(_json_parts(number, files[number], size) for number in numbered)
        if limit is None:
            units += _units(split, list(parts), unit_bytes)
        else:
            reader = Reader(storage, features, files, size, errors)
            copied.append(zip(itertools.repeat(split), _first_rows(parts, limit, unit_bytes, reader), strict=False))
    empty = tuple(split for split in wanted if not full[split])
    if limit is not None:
        return dataclasses.replace(spool(itertools.chain(*copied), storage, unit_bytes), empty_splits=empty)
    return Planned(features.to_dict(), tuple(files), tuple(units), empty)


def _json_file(path: str) -> SourceFile:
    with unreadable(f"can't read {shown(path)}", ""):
        return SourceFile(path, "json", *look_at(path))


def _json_features(path: str, errors: EncodingErrors, storage: Storage) -> Features | None:
    """The features that `datasets` infers from the first chunk of a file; None if it does not hold JSON Lines."""
    from datasets.packaged_modules.json.json import AGENT_TRACES_FEATURES

    with reading(shown(path)), opened(path) as source, open_bytes(Path(path), source) as lines:
        chunk = lines.read(CHUNK_BYTES) + lines.readline()
    start = chunk.removeprefix(codecs.BOM_UTF8).lstrip()
    if not start or not _is_object(start.partition(b"\n")[0]):
        return None
    with storage.scratch() as scratch:
        copy = Copy(scratch / "part.jsonl", scratch, shown(path))
        copy.path.write_bytes(chunk)
        features = copy.features(errors)
    return None if features == AGENT_TRACES_FEATURES else features


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line.decode(errors="replace")), dict)
    except (ValueError, RecursionError):
        return False


def _json_parts(index: int, file: SourceFile, unit_bytes: int) -> Iterator[Part]:
    """Parts of a file that end with a line."""
    size = file.num_bytes
    if suffix_of(file.path):
        yield Part(index, 0, -1, PACKED * size, True)
    elif size <= unit_bytes:
        yield Part(index, 0, size, size, True)
    else:
        with reading(shown(file.path)), opened(file.path) as source:
            if source.read(8).removeprefix(codecs.BOM_UTF8).startswith(b"["):  # one array
                yield Part(index, 0, -1, size, True)
                return
            is_fine = file.path.startswith(HUB) or unit_bytes < CHUNK_BYTES
            start = 0
            for end in line_ends(source, size, unit_bytes if is_fine else CHUNK_BYTES):
                if end - start >= unit_bytes or end == size:
                    yield Part(index, start, end, end - start, (start, end) == (0, size))
                    start = end


def _first_rows(parts: Iterable[Part], limit: int, unit_bytes: int, reader: Reader) -> Iterator[Dataset]:
    """The first rows in parts of JSON files, about a unit at a time, read as far as needed."""
    from datasets import concatenate_datasets

    some: list[Dataset] = []
    for part in parts:
        rows = reader.read(Unit("", 0, part.file, part.start, part.stop))
        some.append(rows.select(range(min(limit, len(rows)))))
        limit -= len(rows)
        if limit <= 0:
            break
        if sum(rows.data.nbytes for rows in some) >= unit_bytes:
            yield concatenate_datasets(some)
            some = []
    if some:
        yield concatenate_datasets(some)


def as_bytes(size: str) -> int:
    """The number of bytes in a size such as 128MB, 1.5 GiB or 4096: K, M and G are powers of 1,024.

    Raises ConfigError for anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?\s*", size, re.IGNORECASE)
    num_bytes = int(float(match[1]) * SIZES[match[2].upper()]) if match else 0
    if num_bytes < 1:
        raise ConfigError(f"unit_size={size!r} must be a size, such as 128MB")
    return num_bytes
