"""An edited dataset in a folder that is ready for the Hub: rows, report, record and card."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..editing.stats import DatasetStats, summarize
from ..errors import RowError, SourceError, ToEditError, ToEditWarning
from ..files.sources import new_folder, save_dataset
from ..report.files import HISTOGRAM, STATS, write_json, write_report, write_whole
from ..rows.provenance import check_made_by, stats_column_of, without_paths
from .card import dataset_card, source_metadata
from .commands import Home
from .merging import CARD
from .records import EARLIER, Edits, Record, Recorded, Source, all_records, edits_of, file_of, records_of, source_of

if TYPE_CHECKING:
    from datasets import DatasetDict

RECORD = "toedit.json"


def write_edited(
    folder: Path,
    dataset: DatasetDict,
    stats: DatasetStats,
    known: Edits,
    source: Source | None = None,
    read_by: Sequence[str] = (),
) -> None:
    """Write an edited dataset: Parquet files in `data`, the report of `write_report`, `toedit.json` and a card.

    known: the edits on record, oldest first; the last one is the one that `stats` is about. Earlier ones that aren't
        on record are told by their fingerprint alone.
    source: the dataset before its first edit. read_by: the SOURCE and options with which a command read it.

    Raises SourceError if the folder can't be written.
    """
    *earlier, record = (without_paths(one) for one in records_of(known))
    records = all_records(dataset, [*earlier, record])
    save_dataset(dataset, folder)
    write_report(folder, stats, record)
    write_record(folder / RECORD, [*(other for other in records if other != record), record], source)
    home = Home(stats=STATS, histogram=HISTOGRAM if (folder / HISTOGRAM).exists() else None)
    files = [{"split": str(split), "path": f"data/{split}-*"} for split in dataset]
    metadata = {**source_metadata(source), "configs": [{"config_name": "default", "data_files": files}]}
    edits = edits_of(dataset, records)
    write_whole(folder / CARD, dataset_card(dataset, edits, source, home, metadata=metadata, read_by=read_by))


def save_edited(dataset: DatasetDict, folder: Path, transform: Recorded, earlier: Edits) -> DatasetStats:
    """Save rows that a transform edited to a new folder and return their statistics: see `ToEditTransform.save`."""
    from datasets import DatasetDict

    [record] = records_of(transform)
    stats = summarize(dataset, stats_column_of(record))
    check_made_by(record, stats, "save")
    full = DatasetDict({name: rows for name, rows in dataset.items() if len(rows)})
    if not full:
        raise RowError("there are no rows to save")
    if left_out := ", ".join(repr(str(name)) for name in dataset if name not in full):
        warnings.warn(f"splits without rows are left out: {left_out}", ToEditWarning, stacklevel=3)
    known = [earlier] if isinstance(earlier, (Recorded, Mapping)) else earlier
    with new_folder(folder) as work:
        write_edited(work, full, stats, [*known, record], source_of(full))
    return stats


def write_record(path: Path, records: Sequence[Record], source: Source | None) -> None:
    """Write the records of edits, oldest first, and the source as `toedit.json`, which `records_of` reads."""
    *earlier, last = map(without_paths, records)
    write_json(path, {**last, **({EARLIER: earlier} if earlier else {}), **_on_the_hub(source)})


def _on_the_hub(source: Source | None) -> dict[str, Any]:
    if source is None or source.is_local:
        return {}
    return {"source": {"id": source.id, "revision": source.revision, "subset": source.subset}}


def recorded_in(source: Source | None) -> tuple[list[Record], Source | None]:
    """What the `toedit.json` of a dataset that was edited before says: its edits, and its own source, if known.

    Raises SourceError if the file is there and isn't a record.
    """
    place = f"{source.subset}/{RECORD}" if source and source.subset and not source.is_local else RECORD
    path = None if source is None else file_of(source, place)
    if path is None:
        return [], None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        records = records_of(content)
    except (OSError, ValueError, ToEditError) as error:
        raise SourceError(f"{path.name} of the source is not the record of an edit: correct or remove it") from error
    return records, recorded_source(content)


def recorded_source(record: Mapping[str, Any]) -> Source | None:
    """The source that a `toedit.json` names."""
    found = record.get("source")
    if not isinstance(found, Mapping) or not isinstance(found.get("id"), str) or Source(found["id"]).is_local:
        return None
    revision, subset = (value if isinstance(value, str) else None for value in map(found.get, ("revision", "subset")))
    return Source(found["id"], revision, subset)
