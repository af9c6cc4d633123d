"""An edited dataset in a folder that is ready for the Hub: rows, report, record and card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..editing.stats import DatasetStats
from ..errors import SourceError, ToEditError
from ..files.sources import save_dataset
from ..report.files import HISTOGRAM, write_json, write_report, write_whole
from .card import dataset_card, source_metadata
from .commands import Home, bare_name
from .records import EARLIER, Edits, Record, Source, all_records, edits_of, file_of, records_of

if TYPE_CHECKING:
    from datasets import DatasetDict

CARD, RECORD, STATS = "README.md", "toedit.json", "stats.json"


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
    # No `configs`: with them, `load_dataset` may give rows that it has cached from another folder of the same name.
    metadata, edits = source_metadata(source), edits_of(dataset, records)
    write_whole(folder / CARD, dataset_card(dataset, edits, source, home, metadata=metadata, read_by=read_by))


def write_record(path: Path, records: Sequence[Record], source: Source | None) -> None:
    """Write the records of edits, oldest first, and the source as `toedit.json`, which `records_of` reads."""
    *earlier, last = map(without_paths, records)
    write_json(path, {**last, **({EARLIER: earlier} if earlier else {}), **_on_the_hub(source)})


def without_paths(record: Record) -> Record:
    """A record without the place of the prior's folder on this machine."""
    return record if record["prior"] is None else {**record, "prior": bare_name(str(record["prior"]))}


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
