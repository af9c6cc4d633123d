"""An edited dataset in a folder that is ready for the Hub: rows, report, record and card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..editing.stats import DatasetStats, summarize
from ..files.outputs import new_folder
from ..files.sources import full_splits, save_dataset
from ..report.files import HISTOGRAM, STATS, write_report, write_whole
from ..rows.provenance import check_made_by, stats_column_of, without_paths
from .commands import Home
from .dataset_card import dataset_card, source_metadata
from .merging import CARD
from .record_file import RECORD, write_record
from .records import DatasetEdit, Edits, Record, Recorded, all_records, counts_of, edits_counted, records_of
from .source import Source, source_of
from .tables import Excerpt, excerpt_of

if TYPE_CHECKING:
    from datasets import DatasetDict


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
        on record are named by their fingerprint alone.
    source: the dataset before its first edit. read_by: the SOURCE and options with which a command read it.

    Raises SourceError if the folder can't be written.
    """
    save_dataset(dataset, folder)
    records = [*map(without_paths, records_of(known))]
    counts = counts_of(dataset)
    edits = edits_counted(counts, all_records(counts, records))
    write_about(folder, stats, records[-1], edits, excerpt_of(dataset, edits), source, read_by)


def write_about(
    folder: Path,
    stats: DatasetStats,
    record: Record,
    edits: Sequence[DatasetEdit],
    excerpt: Excerpt,
    source: Source | None,
    read_by: Sequence[str],
) -> None:
    """Write what `write_edited` writes beside the rows. record: that of the last edit, which `stats` is about."""
    write_report(folder, stats, record)
    records = [edit.record for edit in edits if edit.record != record]
    write_record(folder / RECORD, [*records, record], source)
    home = Home(stats=STATS, histogram=HISTOGRAM if (folder / HISTOGRAM).exists() else None)
    # No `configs`: with them, `load_dataset` may give rows that it has cached from another folder of the same name.
    metadata = source_metadata(source)
    write_whole(folder / CARD, dataset_card(excerpt, edits, source, home, metadata=metadata, read_by=read_by))


def save_edited(dataset: DatasetDict, folder: Path, transform: Recorded, earlier: Edits) -> DatasetStats:
    """Save rows that a transform edited to a new folder and return their statistics: see `ToEditTransform.save`."""
    [record] = records_of(transform)
    stats = summarize(dataset, stats_column_of(record))
    check_made_by(record, stats, "save")
    full = full_splits(dataset, "save", stacklevel=3)
    known = [earlier] if isinstance(earlier, (Recorded, Mapping)) else earlier
    with new_folder(folder) as work:
        write_edited(work, full, stats, [*known, record], source_of(full))
    return stats
