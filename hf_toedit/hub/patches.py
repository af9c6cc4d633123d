"""Patches: edits without the text they were made to. Readers who may read the source get the edited dataset back.

A patch is a folder, or a dataset on the Hub:

    patch.json                             the source and its commit, the records of the edits, and for each split a
                                           digest of the source's rows
    data/{split}-00000-of-00001.parquet    the rows of the patch (see patch_rows.py)
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RowError, SourceError, any_of, one_clear_line
from ..files.sources import load_source
from .patch_rows import (
    BATCH,
    DIGEST,
    PLACE,
    Digests,
    Stage,
    applied,
    digest_of_all,
    digests,
    digests_before,
    first_bits,
    parquet_options,
    patch_rows,
    schema,
    tables,
)
from .records import Edit, Source

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, Features

PATCH = "patch.json"
FORMAT, VERSION = "hf_toedit patch", 1
GROUP = 100_000  # rows in a row group of Parquet
INSTEAD = 'publish the rows themselves with mode="full"'


# Writing.


def write_patch(
    dataset: DatasetDict, folder: Path, edits: Sequence[Edit], source: Source, *, token: str | bool | None = None
) -> None:
    """Write a patch that turns the source into an edited dataset, and check that it does.

    folder: an existing folder. edits: as `edits_of` gives them. source: where the rows were before the edits.

    Raises RowError if the rows without their edits are not rows of the source, if columns were added, renamed or cast,
    or if a row changed after editing; SourceError if the source can't be read or the folder can't be written.
    """
    records = [{**edit.record, "stats_column": edit.stats_column} for edit in edits]
    stages = _stages(records)
    original = _load(source, token)
    splits = {}
    with one_clear_line(SourceError, "can't write the patch", catches=any_of(OSError)):
        (folder / "data").mkdir(exist_ok=True)
        for split, rows in dataset.items():
            _check_columns(rows.features, next(iter(original.values())).features, stages, source)
            origin, places, found = _find_rows(rows, split, stages, original, source)
            _write_rows(_file_of(folder, split), rows, stages, places, found)
            splits[split] = {"source_splits": origin, "num_rows": len(rows), "digest": digest_of_all(found)}
        patch = {
            "format": FORMAT,
            "version": VERSION,
            "source": {"id": source.name, "revision": source.revision, "subset": source.subset},
            "columns": next(iter(dataset.values())).column_names,
            "splits": splits,
            "edits": records,
        }
        (folder / PATCH).write_text(json.dumps(patch, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _check_result(folder, dataset, original)


def _stages(records: Sequence[Mapping[str, Any]]) -> list[Stage]:
    """The `toedit` columns in the order of editing, each with the records of its edits."""
    columns = dict.fromkeys(record["stats_column"] for record in records)
    return [Stage(name, [record for record in records if record["stats_column"] == name]) for name in columns]


def _source_columns(columns: Sequence[str], stages: Sequence[Stage]) -> list[str]:
    return [name for name in columns if name not in {stage.column for stage in stages}]


def _file_of(folder: Path, split: str) -> Path:
    return folder / "data" / f"{split}-00000-of-00001.parquet"


def _check_columns(edited: Features, original: Features, stages: Sequence[Stage], source: Source) -> None:
    """Raise RowError unless every column, except those of the edits, is one of the source's."""
    for name in _source_columns(list(edited), stages):
        if name not in original:
            raise RowError(f"{source.name!r} has no column {name!r}, and a patch can't add or rename one: {INSTEAD}")
        if edited[name] != original[name]:
            raise RowError(f"column {name!r} has another type than in {source.name!r}: {INSTEAD}")


def _find_rows(
    rows: Dataset, split: str, stages: Sequence[Stage], original: DatasetDict, source: Source
) -> tuple[list[str], NDArray[np.int64], Digests]:
    """Where the rows come from: the splits of the source, the place of each row in these, and its digest there."""
    names = _source_columns(rows.column_names, stages)
    wanted = digests_before(rows, names, stages)
    missing = np.empty(0, dtype=np.int64)
    for origin in [[split]] * (split in original) + [list(original)]:
        there = np.concatenate([digests(original[name], names) for name in origin])
        if np.array_equal(there, wanted):
            return origin, np.arange(len(wanted)), wanted
        order = np.argsort(there, kind="stable")
        places = order[np.minimum(np.searchsorted(there[order], wanted), len(order) - 1)]
        missing = np.flatnonzero(there[places] != wanted)
        if not len(missing):
            return origin, places, wanted
    raise RowError(f"row {missing[0]} of split {split!r}, without its edits, is not in {source.name!r}: {INSTEAD}")


def _write_rows(path: Path, rows: Dataset, stages: Sequence[Stage], places: NDArray[np.int64], found: Digests) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    batches = (
        patch_rows(table, stages, places[start : start + BATCH], found[start : start + BATCH])
        for start, table in zip(range(0, len(rows), BATCH), tables(rows, rows.column_names), strict=True)
    )
    with pq.ParquetWriter(path, schema(stages), **parquet_options(stages)) as writer:
        while group := list(islice(batches, GROUP // BATCH)):
            writer.write_table(pa.concat_tables(group))


def _check_result(folder: Path, dataset: DatasetDict, original: DatasetDict) -> None:
    """Raise RowError unless the patch in the folder turns the source into exactly this dataset."""
    patch = _read(folder, str(folder))
    for split, rows in dataset.items():
        with TemporaryDirectory(dir=folder, prefix=".") as scratch:
            result = _apply(patch, split, original, Path(scratch) / "rows.arrow")
            names = rows.column_names
            same = result.features == rows.features and result.column_names == names
            if not same or not np.array_equal(digests(result, names), digests(rows, names)):
                raise RowError(f"a patch would not restore split {split!r} exactly: {INSTEAD}")


# Reading.


@dataclasses.dataclass(frozen=True)
class Patch:
    """What `patch.json` says. columns: those of the edited dataset, in order. stages: its `toedit` columns."""

    folder: Path
    name: str
    source: Source
    columns: list[str]
    stages: list[Stage]
    splits: Mapping[str, Mapping[str, Any]]

    @property
    def is_damaged(self) -> str:
        return f"the patch {self.name!r} is damaged"


def load_edited(
    repo_or_folder: str | Path,
    *,
    split: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    source: str | None = None,
) -> Dataset | DatasetDict:
    """The edited dataset that a patch makes of its source.

        edited = load_edited("me/flan-toedit-patch")

    Its rows, their order and the `toedit` column are those of the dataset that was published as a patch. The source
    is read with your own access to it.

    repo_or_folder: the patch, a dataset on the Hub or a folder.
    split: the name of one split; by default all, as a DatasetDict.
    revision: the branch, tag or commit of the patch. token: as in `load_dataset`, for the patch and the source.
    source: where to read the source instead, such as a copy of it: a Hub id (`org/name@revision`), a file or a folder.
        A patch whose source is not on the Hub needs it.

    Raises SourceError if the patch or its source can't be read, if the patch is damaged, and if the source does not
    have the rows that were edited.
    """
    from datasets import DatasetDict

    name = str(repo_or_folder)
    patch = _read(_fetch(name, revision, token), name)
    if split is not None and split not in patch.splits:
        raise SourceError(f"the patch {name!r} has no split {split!r}; it has {', '.join(patch.splits)}")
    if source is None and patch.source.is_local:
        raise SourceError(f"the source of {name!r} is not on the Hub: name your copy of it with source=")
    original = _load(patch.source if source is None else Source.parse(source), token)
    if split is not None:
        return _apply(patch, split, original)
    return DatasetDict({split: _apply(patch, split, original) for split in patch.splits})


def _fetch(name: str, revision: str | None, token: str | bool | None) -> Path:
    """The folder of a patch, downloaded if it is on the Hub."""
    from huggingface_hub import snapshot_download

    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    files = [PATCH, "data/*.parquet"]
    with one_clear_line(SourceError, f"can't read the patch {name!r}", catches=any_of(OSError, ValueError)):
        return Path(snapshot_download(name, repo_type="dataset", revision=revision, token=token, allow_patterns=files))


def _read(folder: Path, name: str) -> Patch:
    """What is in the `patch.json` of a folder. Raises SourceError if it is not a patch, or a later version of one."""
    path = folder / PATCH
    if not path.is_file():
        raise SourceError(f"{name!r} is not a patch (it has no {PATCH}): read it with load_dataset({name!r})")
    damaged = f"the patch {name!r} is damaged"
    with one_clear_line(SourceError, damaged, catches=any_of(ValueError, LookupError, TypeError, AttributeError)):
        given = json.loads(path.read_text(encoding="utf-8"))
        if given["format"] != FORMAT:
            raise ValueError(f"{PATCH} is not of an hf_toedit patch")
        if given["version"] != VERSION:
            raise SourceError(
                f"the patch {name!r} was written by a later version of hf_toedit: pip install -U hf_toedit"
            )
        source = Source(*(given["source"][field] for field in ("id", "revision", "subset")))
        return Patch(folder, name, source, given["columns"], _stages(given["edits"]), given["splits"])


def _load(source: Source, token: str | bool | None) -> DatasetDict:
    """All splits of a source."""
    from datasets import load_dataset

    if source.is_local:
        return load_source(source.id, subset=source.subset)
    fix = "if it is gated, ask for access on its page, and log in with `hf auth login`"
    with one_clear_line(
        SourceError, f"can't read the source {source.id!r}", fix, catches=any_of(OSError, ValueError, RuntimeError)
    ):
        return load_dataset(source.id, source.subset, revision=source.revision, token=token)


def _apply(patch: Patch, split: str, original: DatasetDict, cache: Path | None = None) -> Dataset:
    """A split of the edited dataset. cache: a file for its rows; by default that of `map`."""
    from datasets import Dataset, Features, concatenate_datasets

    about, rows = patch.splits[split], _patch_rows(patch, split)
    before = concatenate_datasets([original[name] for name in about["source_splits"]])
    before = before.select_columns(_source_columns(patch.columns, patch.stages))
    before = before.select(_places(rows, len(before), patch))
    _check_digests(rows, digests(before, before.column_names), str(about["digest"]))
    structs = Dataset(applied(before.with_format("arrow")[:0], rows[:0], patch.stages)).features
    result = before.with_format("arrow").map(
        functools.partial(_apply_batch, rows=rows, patch=patch),
        batched=True,
        batch_size=BATCH,
        with_indices=True,
        features=Features({name: structs[name] for name in patch.columns}),
        remove_columns=before.column_names,
        cache_file_name=None if cache is None else str(cache),
    )
    return result.with_format(None)


def _patch_rows(patch: Patch, split: str) -> Dataset:
    """The rows of a patch, as Arrow tables. Raises SourceError unless they have the columns they should have."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset
    from datasets.exceptions import DatasetsError

    path = _file_of(patch.folder, split)
    with one_clear_line(SourceError, patch.is_damaged, catches=any_of(OSError, pa.ArrowException, DatasetsError)):
        if pq.read_schema(path) != schema(patch.stages):
            raise SourceError(f"{patch.is_damaged}: {path.name} has other columns than a patch")
        if pq.read_metadata(path).num_rows:
            return Dataset.from_parquet(str(path)).with_format("arrow")
        return Dataset(pq.read_table(path)).with_format("arrow")


def _places(rows: Dataset, num_rows: int, patch: Patch) -> NDArray[np.int64]:
    """The place of each row in the source. Raises SourceError for one that can't be."""
    places = rows[PLACE][:]
    array = np.asarray(places.to_numpy(), dtype=float)
    if places.null_count or (len(array) and not 0 <= array.min() <= array.max() < num_rows):
        raise SourceError(f"the source has {num_rows:,} rows, and {patch.name!r} has edits for others")
    return array.astype(np.int64)


def _check_digests(rows: Dataset, found: Digests, whole: str) -> None:
    """Raise SourceError unless the source's rows are those that were edited."""
    different = np.flatnonzero(rows[DIGEST][:].to_numpy() != first_bits(found))
    if len(different):
        place = rows[PLACE][int(different[0])].as_py()
        raise SourceError(f"source row {place} differs from the one that was edited")
    if digest_of_all(found) != whole:
        raise SourceError("the rows of the source differ from those that were edited")


def _apply_batch(before: Any, indices: list[int], *, rows: Dataset, patch: Patch) -> Any:
    with one_clear_line(SourceError, patch.is_damaged, catches=any_of(RowError, ValueError, OverflowError)):
        return applied(before, rows[indices], patch.stages).select(patch.columns)
