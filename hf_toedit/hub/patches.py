"""Patches: edits without the text they were made in. Readers who may read the source get the edited dataset back."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from glob import escape
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RowError, SourceError, any_of, no_room, one_clear_line, when_full
from ..files.sources import load_source
from ..report.files import write_json
from ..rows.column import struct_type
from ..rows.provenance import without_paths
from .failures import hub_errors
from .patch_files import FORMAT, PATCH, VERSION, Part, Patch, read_patch, rows_file, source_columns, stages_of
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
from .records import DatasetEdit
from .source import Source

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, Features

GROUP = 100_000  # rows in a row group of Parquet
INSTEAD = 'publish the rows themselves with mode="full"'


# Writing.


def write_patch(
    dataset: DatasetDict, folder: Path, edits: Sequence[DatasetEdit], source: Source, *, token: str | bool | None = None
) -> None:
    """Write a patch that turns the source into an edited dataset, and check that it does.

    folder: an existing folder. edits: as `edits_of` gives them; those that the source already has are left to it.
    source: where the rows were before the edits, at a commit if it is on the Hub.

    Raises RowError if the rows without their edits are not rows of the source, if columns were added, renamed or cast,
    or if a row changed after editing; SourceError if the source can't be read or the folder can't be written.
    """
    original = _load(source, token)
    there = {name for rows in original.values() for name in rows.column_names}
    records = [_record(edit) for edit in edits if edit.stats_column not in there]
    if not records:
        raise RowError(f"{source.name!r} has these edits already: name the dataset before them with source=")
    splits = {}
    with one_clear_line(SourceError, "can't write the patch", catches=any_of(OSError)):
        (folder / "data").mkdir(exist_ok=True)
        for split, rows in dataset.items():
            stages = stages_of(records, rows.column_names)
            _check_columns(rows.features, original.get(split, next(iter(original.values()))).features, stages, source)
            origin, places, found = _find_rows(rows, split, stages, original, source)
            _write_rows(rows_file(folder, split), rows, stages, places, found)
            about = {"columns": rows.column_names, "source_splits": origin, "num_rows": len(rows)}
            splits[split] = {**about, "digest": digest_of_all(found), "edited_digest": _digest_of(rows)}
        patch = {
            "format": FORMAT,
            "version": VERSION,
            "source": {**dataclasses.asdict(source), "id": None if source.is_local else source.id},
            "splits": splits,
            "edits": records,
        }
        write_json(folder / PATCH, patch)
        _check_result(folder, dataset, original)


def _record(edit: DatasetEdit) -> dict[str, Any]:
    """The record of an edit, without local paths; its column may have been renamed since."""
    return {**without_paths(edit.record), "stats_column": edit.stats_column}


def _check_columns(edited: Features, original: Features, stages: Sequence[Stage], source: Source) -> None:
    """Raise RowError unless every column, except those of the edits, is one of the source's."""
    for name in source_columns(list(edited), stages):
        if name not in original:
            raise RowError(f"{source.name!r} has no column {name!r}, and a patch can't add or rename one: {INSTEAD}")
        if edited[name] != original[name]:
            raise RowError(f"column {name!r} has another type than in {source.name!r}: {INSTEAD}")


def _find_rows(
    rows: Dataset, split: str, stages: Sequence[Stage], original: DatasetDict, source: Source
) -> tuple[list[str], NDArray[np.int64], Digests]:
    """Where the rows come from: the splits of the source, the place of each row in these, and its digest there."""
    names = source_columns(rows.column_names, stages)
    wanted = digests_before(rows, names, stages)
    missing = np.empty(0, dtype=np.int64)
    all_of_them = [name for name, part in original.items() if {*names} <= {*part.column_names}]
    for origin in [[split]] * (split in original) + [all_of_them]:
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
    patch = read_patch(folder, str(folder))
    for split, rows in dataset.items():
        with TemporaryDirectory(dir=folder, prefix=".") as scratch:
            result = _apply(patch, split, original, Path(scratch))
            same = result.features == rows.features and result.column_names == rows.column_names
            if not same or _digest_of(result) != patch.splits[split].edited_digest:
                raise RowError(f"a patch would not restore split {split!r} exactly: {INSTEAD}")


# Reading.


def load_edited(
    repo_or_folder: str | os.PathLike[str],
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
    revision: the branch, tag or commit of the patch.
    token: for the patch and the source, as in `load_dataset`.
    source: where to read the source instead, such as a copy of it: a Hub id (`org/name@revision`), a file or a folder.
        A patch whose source is not on the Hub needs it.

    Raises SourceError if the patch or its source can't be read, if the patch is damaged, and if the source does not
    have the rows that were edited.
    """
    from datasets import DatasetDict

    name = os.fspath(repo_or_folder)
    patch = read_patch(_fetch(name, revision, token), name)
    if split is not None and split not in patch.splits:
        raise SourceError(f"the patch {name!r} has no split {split!r}; it has {', '.join(patch.splits)}")
    where = Source.parse(source) if source is not None else patch.source
    if where is None:
        raise SourceError(f"the source of {name!r} is not on the Hub: name your copy of it with source=")
    original = _load(where, token)
    with when_full(f"can't load {name!r}", "free some space, or set HF_DATASETS_CACHE to a folder on another disk"):
        if split is not None:
            return _edited(patch, split, original)
        return DatasetDict({split: _edited(patch, split, original) for split in patch.splits})


def _fetch(name: str, revision: str | None, token: str | bool | None) -> Path:
    """The folder of a patch, downloaded if it is on the Hub."""
    from huggingface_hub import snapshot_download

    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if Source(name).is_local:
        raise SourceError(f"there is no folder {name!r}; give one that exists or the id of a patch on the Hub")
    with hub_errors(name, "read the patch"):
        files = [PATCH, "data/*.parquet"]
        return Path(snapshot_download(name, repo_type="dataset", revision=revision, token=token, allow_patterns=files))


def _load(source: Source, token: str | bool | None) -> DatasetDict:
    """All splits of a source."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    if source.is_local:
        return load_source(source.id, subset=source.subset)
    clear = any_of(ValueError, DatasetsError)  # it is gated or gone, or has no such revision or subset
    with (
        hub_errors(source.id, "read the source"),
        one_clear_line(SourceError, f"can't read the source {source.id!r}", catches=clear),
    ):
        return load_dataset(source.id, source.subset, revision=source.revision, token=token)


# Applying.


def _edited(patch: Patch, split: str, original: DatasetDict) -> Dataset:
    """A split of the edited dataset. Raises SourceError unless it is the one that was published."""
    result = _apply(patch, split, original)
    if _digest_of(result) != patch.splits[split].edited_digest:
        raise SourceError(
            f"{patch.is_damaged}: it does not restore the rows of split {split!r} that were published; "
            "ask its owner, or download it again"
        )
    return result


def _digest_of(rows: Dataset) -> str:
    return digest_of_all(digests(rows, rows.column_names))


def _apply(patch: Patch, split: str, original: DatasetDict, scratch: Path | None = None) -> Dataset:
    """A split of the edited dataset. scratch: a folder for its rows; by default the cache of `datasets`."""
    import pyarrow as pa
    from datasets import Dataset, Features

    part = patch.splits[split]
    rows = _patch_rows(patch, split, scratch)
    before = _source_rows(part, rows, original, patch)
    struct = Features.from_arrow_schema(pa.schema({"toedit": struct_type()}))["toedit"]
    features = Features({name: before.features.get(name, struct) for name in part.columns})
    if not len(rows):
        nothing: dict[str, list[Any]] = {name: [] for name in features}
        return Dataset.from_dict(nothing, features=features)
    result = before.with_format("arrow").map(
        functools.partial(_apply_batch, rows=rows, part=part, damaged=patch.is_damaged),
        batched=True,
        batch_size=BATCH,
        with_indices=True,
        features=features,
        remove_columns=before.column_names,
        cache_file_name=None if scratch is None else str(scratch / "rows.arrow"),
    )
    return result.with_format(None)


def _apply_batch(before: Any, indices: list[int], *, rows: Dataset, part: Part, damaged: str) -> Any:
    broken = any_of(RowError, ValueError, TypeError, OverflowError)
    with one_clear_line(SourceError, damaged, catches=broken, says=lambda _: "its edits do not fit the rows"):
        return applied(before, rows[indices], part.stages).select(part.columns)


def _patch_rows(patch: Patch, split: str, scratch: Path | None) -> Dataset:
    """The rows of a patch, as Arrow tables. Raises SourceError unless all are there, in the columns of a patch."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset
    from datasets.exceptions import DatasetsError

    part, path = patch.splits[split], rows_file(patch.folder, split)
    damaged = f"{patch.is_damaged}: {path.name}"
    broken = any_of(OSError, pa.ArrowException, DatasetsError)
    with one_clear_line(SourceError, damaged, catches=lambda error: broken(error) and not no_room(error)):
        if pq.read_schema(path) != schema(part.stages):
            raise SourceError(f"{damaged} has other columns than a patch")
        if pq.read_metadata(path).num_rows != part.num_rows:
            raise SourceError(f"{damaged} does not have {part.num_rows:,} rows")
        if not part.num_rows:
            return Dataset(pq.read_table(path)).with_format("arrow")
        cache = None if scratch is None else str(scratch)
        return Dataset.from_parquet(escape(str(path.resolve())), cache_dir=cache).with_format("arrow")


def _source_rows(part: Part, rows: Dataset, original: DatasetDict, patch: Patch) -> Dataset:
    """The rows of the source that were edited. Raises SourceError unless they are as they were."""
    from datasets import concatenate_datasets

    for name in part.source_splits:
        _check_has("split", [name], list(original))
        _check_has("column", part.source_columns, original[name].column_names)
    before = concatenate_datasets([original[name].select_columns(part.source_columns) for name in part.source_splits])
    places = rows[PLACE][:]
    if places.null_count or not all(0 <= edge.as_py() < len(before) for edge in _edges(places)):
        raise SourceError(f"the source has {len(before):,} rows, and {patch.name!r} has edits for others")
    before = before.select(places.to_numpy())
    found = digests(before, part.source_columns)
    different = np.flatnonzero(rows[DIGEST][:].to_numpy() != first_bits(found))
    if len(different):
        raise SourceError(f"source row {places[int(different[0])]} differs from the one that was edited")
    if digest_of_all(found) != part.digest:
        raise SourceError("the rows of the source differ from those that were edited")
    return before


def _check_has(kind: str, names: Sequence[str], known: Sequence[str]) -> None:
    if missing := [name for name in names if name not in known]:
        there = ", ".join(known)
        raise SourceError(f"the source has no {kind} {missing[0]!r} (it has {there}): it isn't the one that was edited")


def _edges(numbers: Any) -> list[Any]:
    """The smallest and the largest number of an Arrow array, if it has any."""
    import pyarrow.compute as pc

    return list(pc.min_max(numbers).values()) if len(numbers) else []
