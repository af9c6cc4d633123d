"""Datasets in and out of files: what a SOURCE may be, and output folders that are whole or not there."""

from __future__ import annotations

import re
import shutil
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import SourceError

if TYPE_CHECKING:
    from datasets import DatasetDict

BUILDERS = {
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".txt": "text",
}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
# "NA" and "None" are text; only an empty cell is null.
READ_OPTIONS: dict[str, dict[str, Any]] = {"csv": {"keep_default_na": False, "na_values": [""]}}
WORK_FOLDER = ".work"


def load_source(
    source: str,
    *,
    split: str | None = None,
    subset: str | None = None,
    limit: int | None = None,
    revision: str | None = None,
) -> DatasetDict:
    """The dataset that SOURCE names, as a DatasetDict also where it has one split.

    source: a file (.jsonl, .json, .ndjson, .parquet, .csv, .txt; also compressed, as in .json.gz), a folder written by
        `save_to_disk`, a folder of data files, or a Hub id. Of a .txt file each line is a row.
    split: one split, as `load_dataset` takes it (`train[:100]` too); default all.
    subset: the configuration of a Hub dataset, or of a folder with a dataset card, that has several.
    limit: of each split only the first `limit` rows.
    revision: branch, tag or commit of a Hub dataset.

    Raises SourceError for what is missing, unreadable, of an unknown format, or has no rows.
    """
    from datasets import DatasetDict, load_dataset

    path = Path(source).expanduser()
    with _one_clear_line(f"can't read {source!r}"):
        if path.is_file():
            if subset is not None:
                raise SourceError(f"the file {source!r} has no subset {subset!r}: leave it out")
            loaded = _load_file(path, split)
        elif path.is_dir():
            loaded = _load_folder(path, split, subset)
        else:
            _refuse_paths(source)
            with _one_clear_line(f"there is no file or folder {source!r}, and the Hub does not give it"):
                loaded = load_dataset(source, subset, split=split, revision=revision)
    loaded = _as_dict(loaded)
    if limit is not None:
        loaded = DatasetDict({name: rows.select(range(min(limit, len(rows)))) for name, rows in loaded.items()})
    for name, rows in loaded.items():
        if not len(rows):
            raise SourceError(f"split {str(name)!r} of {source!r} has no rows")
    return loaded


def stream_source(source: str, *, split: str, subset: str | None = None, revision: str | None = None) -> Any:
    """One split of a Hub dataset, or of a folder of data files, as an IterableDataset that reads them one by one.

    Raises SourceError for what is missing or can't be streamed.
    """
    from datasets import load_dataset

    path = Path(source).expanduser()
    if path.is_file():
        raise SourceError(f"{source!r} is a file, and stream is for Hub datasets and folders: leave stream out")
    with _one_clear_line(f"can't stream {source!r}"):
        if not path.is_dir():
            _refuse_paths(source)
        name = str(path.resolve()) if path.is_dir() else source
        return load_dataset(name, subset, split=split, revision=revision, streaming=True)


def _as_dict(loaded: Any) -> DatasetDict:
    from datasets import DatasetDict

    if isinstance(loaded, DatasetDict):
        return loaded
    name = re.match(r"\w+", str(loaded.split or "train"))  # train[:10] is a part of train
    return DatasetDict({name.group() if name else "train": loaded})


def _load_file(path: Path, split: str | None) -> Any:
    from datasets import load_dataset

    suffixes = [suffix for suffix in path.suffixes if suffix not in COMPRESSED]
    builder = BUILDERS.get(suffixes[-1]) if suffixes else None
    if builder is None:
        raise SourceError(f"{str(path)!r} has an unknown format; known: {', '.join(BUILDERS)} (also with .gz)")
    if not path.stat().st_size:
        raise SourceError(f"{str(path)!r} is empty")
    return load_dataset(builder, data_files=_literal(path), split=split, **READ_OPTIONS.get(builder, {}))


def _literal(path: Path) -> str:
    """The path as a pattern that matches itself only: data_files are patterns."""
    return re.sub(r"([*?\[])", r"[\1]", str(path.resolve()))


def _load_folder(path: Path, split: str | None, subset: str | None) -> Any:
    from datasets import load_dataset, load_from_disk

    if not any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return load_dataset(str(path.resolve()), subset, split=split)
    if subset is not None:
        raise SourceError(f"{str(path)!r} was saved without subsets: leave {subset!r} out")
    saved = _as_dict(load_from_disk(str(path)))
    if split is not None and split not in saved:
        raise SourceError(f"{str(path)!r} has no split {split!r}; it has {', '.join(saved)}")
    return saved if split is None else saved[split]


def _refuse_paths(source: str) -> None:
    """Raise SourceError for what can't be a Hub id, which would be a slow way to learn of a misspelt path."""
    is_path = source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source or not source
    if is_path or any(suffix in (*BUILDERS, *COMPRESSED) for suffix in Path(source).suffixes[-1:]):
        raise SourceError(f"there is no file or folder {source!r}; give a path that exists or the id of a Hub dataset")


@contextmanager
def _one_clear_line(what: str) -> Iterator[None]:
    """Turn the errors that missing and broken files cause into a SourceError of one line, with the cause attached."""
    import datasets
    from pyarrow.lib import ArrowException

    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # the error says what the log would say
    broken = (
        *(OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, EOFError, StopIteration),
        *(zlib.error, ArrowException, datasets.exceptions.DatasetsError),
    )
    try:
        yield
    except broken as error:
        cause = error
        while isinstance(cause, datasets.exceptions.DatasetGenerationError) and cause.__cause__ is not None:
            cause = cause.__cause__
        lines = str(cause).strip().splitlines()
        raise SourceError(f"{what}: {lines[0] if lines else 'it holds no rows'}") from error
    finally:
        datasets.logging.set_verbosity(verbosity)


def save_dataset(dataset: DatasetDict, folder: Path) -> None:
    """Write each split to `folder/data/{split}-00000-of-00001.parquet`, the layout of the Hub.

    `datasets.load_dataset(folder)` gives the same splits and features back, whatever else lies beside `data`.
    Raises SourceError if the files can't be written.
    """
    try:
        (folder / "data").mkdir()
        for split, rows in dataset.items():
            rows.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    except OSError as error:
        raise SourceError(f"can't write the dataset: {error}") from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears at `path` when the block ends well, and not at all when it does not.

    The block works in a temporary folder beside `path`; what it leaves in `WORK_FOLDER` there is not kept.
    Raises SourceError, before the block runs, if `path` exists and is not an empty folder, or can't be made.
    """
    target = path.expanduser().resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SourceError(f"the output {str(path)!r} exists: remove it or name another folder")
    missing = [parent for parent in target.parents if not parent.exists()]
    folder = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    done = False
    try:
        with _writing(path):
            (folder / WORK_FOLDER).mkdir(parents=True)
        yield folder
        shutil.rmtree(folder / WORK_FOLDER)
        with _writing(path):
            if target.is_dir():
                target.rmdir()
            folder.rename(target)
        done = True
    finally:
        if not done:
            shutil.rmtree(folder, ignore_errors=True)
            for parent in missing:  # the deepest first
                if parent.is_dir() and not any(parent.iterdir()):
                    parent.rmdir()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SourceError(f"can't write the output {str(path)!r}: {error.strerror}") from error
