"""JSON Lines as `datasets` reads them: in chunks, each with types of its own, cast to the features of the source."""

from __future__ import annotations

import codecs
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import SourceError, no_room
from ..files.sources import literal, reading
from ..files.textfiles import EncodingErrors, malformed_json, open_bytes, readable

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features

CHUNK_BYTES = 10 << 20  # of a chunk, which then goes on to the end of the line


@dataclasses.dataclass(frozen=True)
class Copy:
    """A copy of a file, or of a part of it, in a scratch folder. name, lines_before: see `readable`."""

    path: Path
    scratch: Path
    name: str
    lines_before: Callable[[], int] = lambda: 0

    def features(self, errors: EncodingErrors) -> Features | None:
        """The features that `datasets` infers from the first chunk; None if that isn't enough."""
        features: Features | None = self._load(self._readable(errors), streaming=True).features
        return features

    def rows(self, features: Features, errors: EncodingErrors) -> pa.Table:
        """The rows with these features.

        Raises SourceError, with the line where it is found.
        """
        text = self._readable(errors)
        with open_bytes(text) as lines:
            if not any(line.strip() for line in lines):
                return features.arrow_schema.empty_table()
        table: pa.Table = self._load(text, features=features, keep_in_memory=True).data.table
        if _has_quoted(table) and (corrected := self._with_strings(text, features)):
            table = self._load(corrected, features=features, keep_in_memory=True).data.table
        return table

    def _readable(self, errors: EncodingErrors) -> Path:
        return readable(
            self.path, self.scratch, is_json=True, errors=errors, name=self.name, lines_before=self.lines_before
        )

    def _load(self, text: Path, **options: Any) -> Any:
        from datasets import load_dataset

        options |= {"split": "train", "cache_dir": str(self.scratch / "cache"), "chunksize": CHUNK_BYTES}
        try:
            with quiet(), reading(self.name):
                return load_dataset("json", data_files={"train": [literal(text)]}, **options)
        except SourceError as error:
            if full := no_room(error):
                raise OSError(full, os.strerror(full)) from error
            problem = malformed_json(text, self.lines_before)
            if not problem and "features" in options:
                problem = self._misfit(text, options["features"])
            if problem:
                raise SourceError(f"{self.name} {problem}") from error
            raise

    def _misfit(self, text: Path, features: Features) -> str:
        """The first line with a value that the features don't allow; empty if there is none."""
        for number, row in _objects(text):
            for name, value in row.items():
                if name not in features:
                    line = self.lines_before() + number
                    return f"line {line} has {name!r}, which the first rows of the source do not have: remove it"
                if not _fits(value, features[name]):
                    line, kind = self.lines_before() + number, getattr(features[name], "dtype", "of the same type")
                    return f"line {line}: {name!r} is not {kind}, as in the first rows of the source: correct it"
        return ""

    def _with_strings(self, text: Path, features: Features) -> Path | None:
        """A copy in which what isn't a string, but should be, is one; None if there is no such value.

        `datasets` has put all values of such a column in quotes, in this chunk and those after it.
        """
        corrected, differs = self.scratch / "strings.jsonl", False
        with corrected.open("w", encoding="utf-8") as file:
            for _, row in _objects(text):
                as_told = {name: _as_told(value, features.get(name)) for name, value in row.items()}
                differs = differs or as_told != row
                file.write(json.dumps(as_told) + "\n")
        return corrected if differs else None


def line_ends(file: IO[bytes], size: int, step: int) -> Iterator[int]:
    """Where chunks of a file end: at the first end of a line after `step` bytes, as `datasets` reads JSON Lines."""
    end = 0
    while end + step < size:
        file.seek(end + step)
        while (piece := file.readline(1 << 20)) and not piece.endswith(b"\n"):
            pass
        end = file.tell()
        yield end
    if end < size:
        yield size


def count_rows(part: Path, start: int, stop: int) -> tuple[int, int, int]:
    """The number of lines that aren't blank before the byte `start`, from there to `stop`, and in all."""
    counts, place = [0, 0, 0], 0
    with part.open("rb") as file:
        for line in file:
            if line.strip():
                counts[0 if place < start else 1 if place < stop else 2] += 1
            place += len(line)
    return counts[0], counts[1], sum(counts)


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


def _objects(text: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows, with the number of the line."""
    with open_bytes(text) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip() and isinstance(row := json.loads(line.removeprefix(codecs.BOM_UTF8)), dict):
                yield number, row


def _fits(value: Any, feature: Any) -> bool:
    import pyarrow as pa
    from datasets.table import cast_array_to_feature

    if "Json" in str(feature):
        return True
    try:
        cast_array_to_feature(pa.array([value]), feature)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False
    return True


def _has_quoted(table: pa.Table) -> bool:
    """Whether a string begins with a quotation mark, as all do once `datasets` has met a number among them."""
    import pyarrow.compute as pc

    columns = (leaf for column in table.columns for chunk in column.chunks for leaf in _strings(chunk))
    return any(pc.any(pc.starts_with(strings, '"')).as_py() for strings in columns)


def _strings(array: pa.Array) -> Iterator[pa.Array]:
    """The arrays of strings in an array of any type."""
    import pyarrow.types as types

    if types.is_struct(array.type):
        for field in array.flatten():
            yield from _strings(field)
    elif types.is_list(array.type) or types.is_large_list(array.type):
        yield from _strings(array.flatten())
    elif types.is_string(array.type) or types.is_large_string(array.type):
        yield array


def _as_told(value: Any, feature: Any) -> Any:
    """The value, with JSON text for what isn't a string where the feature says string."""
    if value is None or isinstance(value, str):
        return value
    if getattr(feature, "dtype", None) in ("string", "large_string"):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(feature, Mapping) and isinstance(value, dict):
        return {name: _as_told(item, feature.get(name)) for name, item in value.items()}
    if isinstance(value, list) and hasattr(feature, "feature"):
        return [_as_told(item, feature.feature) for item in value]
    return value
