"""Datasets in and out of files: what a SOURCE can be."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import lzma
import os
import re
import shutil
import sys
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from glob import glob, has_magic
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RowError, SourceError, ToEditWarning, any_of, one_clear_line
from .outputs import scratch_folder
from .textfiles import EncodingErrors, malformed_csv, malformed_json, readable

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder, DatasetDict, Features, IterableDataset

FORMATS = {  # the `datasets` builder that reads a file, and the separator
    ".jsonl": ("json", ""),
    ".json": ("json", ""),
    ".ndjson": ("json", ""),
    ".parquet": ("parquet", ""),
    ".csv": ("csv", ","),
    ".tsv": ("csv", "\t"),
    ".txt": ("text", ""),
}
# "NA" and "None" are text; only an empty cell is null.
CSV: dict[str, object] = {"keep_default_na": False, "na_values": [""]}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
STDIN = "-"
UNFINISHED = ".toedit/plan.json"  # in the output of an edit, with nothing beside it until all rows are there


def load_source(
    source: str | Sequence[str],
    *,
    split: str | None = None,
    subset: str | None = None,
    limit: int | None = None,
    revision: str | None = None,
    encoding_errors: EncodingErrors = "strict",
) -> DatasetDict:
    """The dataset that SOURCE names, as a DatasetDict even if it has only one split.

    source: a file (.jsonl, .json, .ndjson, .parquet, .csv, .tsv, .txt; also compressed, as in .json.gz), a pattern of
        files ("data/*.jsonl"), several files of one format (one split), "-" (stdin: JSON Lines if it begins with { or
        [, else text), a folder written by `save_to_disk`, a folder of data files, or a Hub id, also as `id@revision`.
        In a .txt file each line is a row.
    split: one split, in the form `load_dataset` takes (`train[:100]` works too). Default: all. Files have one, `train`.
    subset: the configuration, for a Hub dataset or a folder with a dataset card that has several.
    limit: only the first `limit` rows of each split.
    revision: the branch, tag or commit of a Hub dataset.
    encoding_errors: "strict", or "backslashreplace" to read bytes that are not UTF-8, and lone surrogates, as the texts
        `\\xe9` and `\\ud800`.

    Raises SourceError, with the line of a file where there is one, for a source that is missing, unreadable, in an
    unknown format, or without rows.
    """
    from datasets import DatasetDict

    sources = [source] if isinstance(source, str) else list(source)
    name = _name_of(sources)
    with reading(name), scratch_folder() as scratch:
        files = _files_of(sources, scratch)
        if files is not None:
            if subset is not None:
                raise SourceError(f"{name} has no subset {subset!r}: leave it out")
            loaded = _load_files({"train": files}, split, encoding_errors, scratch)
        elif Path(sources[0]).expanduser().is_dir():
            loaded = _load_folder(Path(sources[0]).expanduser(), split, subset, encoding_errors, scratch)
        else:
            loaded = _load_from_hub(sources[0], split, subset, revision)
    loaded = as_dict(loaded)
    if limit is not None:
        loaded = DatasetDict({name: rows.select(range(min(limit, len(rows)))) for name, rows in loaded.items()})
    if not any(map(len, loaded.values())):
        which = "" if split is None else f"split {split!r} of "
        raise SourceError(f"{which}{name} has no rows")
    return loaded


@dataclasses.dataclass(frozen=True)
class DataFiles:
    """The files with the rows of a source.

    builder: the builder of `datasets` that reads them, such as json or parquet; empty if it needs options from a
        dataset card, or if `save_to_disk` wrote them.
    files: by split, paths or `hf://` URLs with a commit. features, subset: those that a dataset card gives, if any.
    """

    builder: str
    files: Mapping[str, Sequence[str]]
    features: Features | None = None
    subset: str | None = None


def find_files(sources: Sequence[str], subset: str | None = None) -> DataFiles | None:
    """The files with the rows of a SOURCE, as `load_source` would read them; None for stdin.

    Raises SourceError for a source that is missing or in an unknown format.
    """
    if STDIN in sources:
        return None
    with reading(_name_of(sources)):
        files = _files_of(sources, Path())
        if files is not None:
            return DataFiles(_one_format(files)[0], {"train": list(map(os.path.abspath, files))})
        path = Path(sources[0]).expanduser()
        if not path.is_dir():
            return _of_builder(_hub_builder(sources[0], subset))
        if _is_saved(path):
            return DataFiles(
                "", {"": [os.path.abspath(file) for file in sorted(path.glob("**/*.*")) if file.is_file()]}
            )
        found = {} if _has_card(path, subset) else _files_in(path)
        if not found:
            return _of_builder(_folder_builder(path, subset))
        builder, _ = _one_format([file for files in found.values() for file in files])
        return DataFiles(builder, {split: list(map(str, files)) for split, files in found.items()})


def _hub_builder(source: str, subset: str | None) -> DatasetBuilder:
    from datasets import load_dataset_builder

    _refuse_paths(source)
    name, _, revision = source.partition("@")
    with scratch_folder() as scratch, _finding(source):
        return load_dataset_builder(name, subset, revision=revision or None, cache_dir=str(scratch))


def _folder_builder(path: Path, subset: str | None) -> DatasetBuilder:
    from datasets import load_dataset_builder

    with scratch_folder() as scratch:
        return load_dataset_builder(str(path.resolve()), subset, cache_dir=str(scratch))


def _of_builder(builder: DatasetBuilder) -> DataFiles:
    """What a builder of `datasets` reads."""
    config = builder.config
    files = {str(split): list(map(str, files)) for split, files in (config.data_files or {}).items()}
    apart = ("name", "version", "data_dir", "data_files", "description", "features")
    given, usual = (
        {name: value for name, value in vars(one).items() if name not in apart}
        for one in (config, builder.BUILDER_CONFIG_CLASS())
    )
    is_plain = given == usual and all(_format_of(Path(file)) for file in chain.from_iterable(files.values()))
    subset = None if config.name == "default" else config.name
    return DataFiles(str(builder.name) if is_plain else "", files, builder.info.features, subset)


def stream_source(
    source: str, *, split: str, subset: str | None = None, revision: str | None = None
) -> IterableDataset:
    """One split of a Hub dataset, or of a folder of data files, as an IterableDataset that reads rows one by one.

    Raises SourceError if the source is missing or can't be streamed.
    """
    from datasets import load_dataset

    path = Path(source).expanduser()
    if path.is_file():
        raise SourceError(f"{source!r} is a file, and stream is for Hub datasets and folders: leave stream out")
    with reading(repr(source), "stream"):
        if not path.is_dir():
            _refuse_paths(source)
        name = str(path.resolve()) if path.is_dir() else source
        return load_dataset(name, subset, split=split, revision=revision, streaming=True)


def _files_of(sources: Sequence[str], scratch: Path) -> list[Path] | None:
    """The files named by the sources; None for a folder or a Hub id."""
    files: list[Path] = []
    for source in sources:
        path = Path(source).expanduser()
        if source == STDIN:
            files.append(_copy_stdin(scratch))
        elif path.is_file():
            files.append(path)
        elif not path.exists() and has_magic(source):
            matched = sorted(file for file in map(Path, glob(str(path), recursive=True)) if file.is_file())
            if not matched:
                raise SourceError(f"no file matches {source!r}")
            files += matched
        elif len(sources) > 1:
            raise SourceError(f"{source!r} is not a file: several sources must all be files")
        else:
            return None
    return files


def _copy_stdin(scratch: Path) -> Path:
    (scratch / "stdin").mkdir()
    start = sys.stdin.buffer.read(1 << 16)
    copy = scratch / "stdin" / f"standard input{'.jsonl' if start.lstrip()[:1] in (b'{', b'[') else '.txt'}"
    with copy.open("wb") as file:
        file.write(start)
        shutil.copyfileobj(sys.stdin.buffer, file)
    return copy


def _load_from_hub(source: str, split: str | None, subset: str | None, revision: str | None) -> Dataset | DatasetDict:
    from datasets import load_dataset

    _refuse_paths(source)
    name, _, pinned = source.partition("@")
    with _finding(source):
        return load_dataset(name, subset, split=split, revision=revision or pinned or None)


def _name_of(sources: Sequence[str]) -> str:
    return ", ".join(map(repr, sources[:3])) + (", ..." if len(sources) > 3 else "")


def as_dict(loaded: Dataset | DatasetDict) -> DatasetDict:
    from datasets import DatasetDict

    return (
        loaded if isinstance(loaded, DatasetDict) else DatasetDict({_split_name(str(loaded.split or "train")): loaded})
    )


def full_splits(dataset: DatasetDict, verb: str, stacklevel: int) -> DatasetDict:
    """The splits that have rows; a warning names the others. Raises RowError if none has. verb: what is done then."""
    from datasets import DatasetDict

    full = DatasetDict({str(name): rows for name, rows in dataset.items() if len(rows)})
    if not full:
        raise RowError(f"there are no rows to {verb}")
    if left_out := ", ".join(repr(str(name)) for name in dataset if str(name) not in full):
        warnings.warn(f"splits without rows are left out: {left_out}", ToEditWarning, stacklevel=stacklevel + 1)
    return full


def _split_name(split: str) -> str:
    """The name of the split, without a slice: `train[:10]` is part of `train`."""
    name = re.match(r"\w+", split)
    return name.group() if name else "train"


def _format_of(path: Path) -> tuple[str, str] | None:
    """The entry of FORMATS for a file; None for an unknown format."""
    suffixes = [suffix for suffix in path.suffixes if suffix not in COMPRESSED]
    return FORMATS.get(suffixes[-1]) if suffixes else None


def _load_files(
    files: Mapping[str, list[Path]], split: str | None, errors: EncodingErrors, scratch: Path
) -> Dataset | DatasetDict:
    """The splits in files of one format. A split whose files are empty has the columns of the others and no rows."""
    from datasets import Dataset, load_dataset

    builder, separator = _one_format([path for paths in files.values() for path in paths])
    full = {name: [path for path in paths if path.stat().st_size] for name, paths in files.items()}
    empty = [name for name, paths in full.items() if not paths]
    wanted = None if split is None else _split_name(split)
    if len(empty) == len(full) or wanted in empty:
        raise SourceError(f"{_name(files[wanted if wanted in empty else empty[0]][0], scratch)} is empty")
    options = {**CSV, "sep": separator} if builder == "csv" else {}
    data_files = {
        name: [literal(path if builder == "parquet" else _readable(path, scratch, errors)) for path in paths]
        for name, paths in full.items()
        if paths
    }
    with _line_of_the_error(full, scratch):
        loaded = load_dataset(builder, data_files=data_files, split=split, **options)
    if split is None and empty:
        features = next(iter(loaded.values())).features
        nothing: dict[str, list[object]] = {column: [] for column in features}
        loaded.update({name: Dataset.from_dict(nothing, features=features) for name in empty})
    return loaded


def _one_format(paths: Sequence[Path]) -> tuple[str, str]:
    """The common format of the files. Raises SourceError if it is unknown, or if there are several."""
    formats: dict[tuple[str, str], Path] = {}
    for path in paths:
        known = _format_of(path)
        if known is None:
            raise SourceError(f"{str(path)!r} has an unknown format; known: {', '.join(FORMATS)} (also with .gz)")
        formats.setdefault(known, path)
    if len(formats) > 1:
        pattern = str(paths[0].with_name(f"*{paths[0].suffix}"))
        names = " and ".join(repr(str(path)) for path in list(formats.values())[:2])
        raise SourceError(f"{names} have different formats: give files of one, such as {pattern!r}")
    return next(iter(formats))


def _readable(path: Path, scratch: Path, errors: EncodingErrors) -> Path:
    is_json = (_format_of(path) or ("", ""))[0] == "json"
    return readable(path, scratch, is_json=is_json, errors=errors, name=_name(path, scratch))


def _name(path: Path, scratch: Path) -> str:
    return "standard input" if scratch in path.parents else repr(str(path))


@contextmanager
def _line_of_the_error(files: Mapping[str, list[Path]], scratch: Path) -> Iterator[None]:
    """If files can't be loaded, name the file and the line, where these can be found."""
    from datasets.exceptions import DatasetsError
    from pyarrow.lib import ArrowException

    try:
        yield
    except (DatasetsError, ArrowException, ValueError) as error:
        for path in chain.from_iterable(files.values()):
            builder, separator = _format_of(path) or ("", "")
            problem = malformed_json(path) if builder == "json" else malformed_csv(path, separator) if separator else ""
            if problem:
                raise SourceError(f"{_name(path, scratch)} {problem}") from error
        raise


def literal(path: Path) -> str:
    """The path as a pattern that matches only itself, because data_files are patterns."""
    return re.sub(r"([*?\[])", r"[\1]", str(path.resolve()))


def _load_folder(
    path: Path, split: str | None, subset: str | None, errors: EncodingErrors, scratch: Path
) -> Dataset | DatasetDict:
    from datasets import load_dataset

    if _is_saved(path):
        if subset is not None:
            raise SourceError(f"{str(path)!r} was saved without subsets: leave {subset!r} out")
        saved = _load_saved(path)
        if split is not None and split not in saved:
            raise SourceError(f"{str(path)!r} has no split {split!r}; it has {', '.join(saved)}")
        return saved if split is None else saved[split]
    files = {} if _has_card(path, subset) else _files_in(path)
    if files:
        return _load_files(files, split, errors, scratch)
    return load_dataset(str(path.resolve()), subset, split=split, cache_dir=_cache_of(path.resolve()))


def _is_saved(path: Path) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _has_card(path: Path, subset: str | None) -> bool:
    return subset is not None or (path / "README.md").is_file()


def _cache_of(folder: Path) -> str:
    """A cache for a folder as it is now. Where a card has `configs`, `datasets` does not notice that files changed."""
    from datasets import config

    files = sorted(file for file in folder.rglob("*") if file.is_file())
    state = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    digest = hashlib.blake2b(json.dumps(state).encode(), digest_size=8).hexdigest()
    return str(Path(config.HF_DATASETS_CACHE) / "folders" / digest)


def _load_saved(path: Path) -> DatasetDict:
    """`load_from_disk`, which itself can't load a split without rows."""
    from datasets import Dataset, DatasetDict, DatasetInfo, load_from_disk

    index = path / "dataset_dict.json"
    if not index.is_file():
        return as_dict(load_from_disk(str(path)))
    splits = {}
    for name in json.loads(index.read_text(encoding="utf-8"))["splits"]:
        state = json.loads((path / name / "state.json").read_text(encoding="utf-8"))
        if state["_data_files"]:
            splits[name] = load_from_disk(str(path / name))
        else:
            features = DatasetInfo.from_directory(str(path / name)).features
            splits[name] = Dataset.from_dict({column: [] for column in features}, features=features)
    return DatasetDict(splits)


def check_finished(path: Path) -> None:
    """Raise SourceError if a folder without data holds an edit that is not finished."""
    if (path / UNFINISHED).exists():
        raise SourceError(f"{str(path)!r} holds an edit that is not finished: run its command again")


def _files_in(path: Path) -> dict[str, list[Path]]:
    """The data files in a folder by split, as `datasets` finds them by name; other formats are left out."""
    from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns

    base = str(path.resolve())
    try:
        files_of = DataFilesDict.from_patterns(get_data_patterns(base), base_path=base)
    except EmptyDatasetError as error:
        check_finished(path)
        raise SourceError(f"the folder {str(path)!r} has no data files; known: {', '.join(FORMATS)}") from error
    known = {str(split): [Path(file) for file in files if _format_of(Path(file))] for split, files in files_of.items()}
    return {split: files for split, files in known.items() if files}


def _refuse_paths(source: str) -> None:
    """Raise SourceError for what can't be a Hub id: asking the Hub is a slow way to discover a misspelt path."""
    name = source.partition("@")[0]
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in source or not name
    if is_path or any(suffix in (*FORMATS, *COMPRESSED) for suffix in Path(source).suffixes[-1:]):
        raise SourceError(f"there is no file or folder {source!r}; give a path that exists or the id of a Hub dataset")


@contextmanager
def reading(name: str, verb: str = "read") -> Iterator[None]:
    """Turn the errors that missing and broken files cause into a SourceError of one line, with the cause attached."""
    with _one_clear_line(f"can't {verb} {name}"):
        yield


def _finding(source: str) -> AbstractContextManager[None]:
    return _one_clear_line(f"there is no file or folder {source!r}, and it was not found on the Hub")


@contextmanager
def _one_clear_line(what: str) -> Iterator[None]:
    import datasets
    from pyarrow.lib import ArrowException

    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # the error says what the log would have said
    broken = any_of(
        *(OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, EOFError, StopIteration),
        *(zlib.error, lzma.LZMAError, ArrowException, datasets.exceptions.DatasetsError),
    )
    try:
        with one_clear_line(SourceError, what, catches=broken, says=_first_line):
            yield
    finally:
        datasets.logging.set_verbosity(verbosity)


def _first_line(error: BaseException) -> str:
    from datasets.exceptions import DatasetGenerationError

    while isinstance(error, DatasetGenerationError) and error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "it holds no rows"


def save_dataset(dataset: DatasetDict, folder: Path) -> None:
    """Write each split to `folder/data/{split}-00000-of-00001.parquet`, the layout of the Hub.

    `datasets.load_dataset(folder)` returns the same splits and features, whatever else is in the folder.
    Raises SourceError if the files can't be written.
    """
    try:
        (folder / "data").mkdir()
        for split, rows in dataset.items():
            _write_parquet(rows, folder / "data" / f"{split}-00000-of-00001.parquet")
    except OSError as error:
        raise SourceError(f"can't write the dataset: {error}") from error


def _write_parquet(rows: Dataset, path: Path) -> None:
    with _Remembering(io.FileIO(path, "w")) as file:
        rows.to_parquet(file)
        if file.error is not None:
            raise file.error


class _Remembering(io.BufferedWriter):
    """A file that keeps the error of a write, such as of a full disk, for later: Arrow can abort the process on one."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            return len(data)
