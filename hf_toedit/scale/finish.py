"""A whole output from finished units: statistics, record, card, and the rows in their place."""

from __future__ import annotations

from ..editing.stats import DatasetStats
from ..hub.folder import write_about
from ..hub.merging import CARD
from ..hub.records import all_records, edits_counted, records_of
from ..hub.source import Source
from ..rows.provenance import without_paths
from .edited import EditedShards
from .failures import check_any_edited, write_failed_rows
from .job import SOURCE, TRANSFORM, Job


def finish(job: Job) -> tuple[DatasetStats, EditedShards]:
    """Write the statistics, the record and the card, and put the rows in their place.

    The rows are counted by the manifests; only a few are read again, for the card. If a call is interrupted, the next
    one finishes.

    Raises SourceError if a unit is not done; PriorError if the prior failed on every row.
    """
    edited = EditedShards(job)
    stats = edited.with_equal_texts()
    check_any_edited(job, stats)
    about = job.plan.about
    known = [*map(without_paths, records_of([*about["earlier"], job.plan.record]))]
    edits = edits_counted(edited.counts, all_records(edited.counts, known))
    source = None if about["source"] is None else Source(**about["source"])
    with job.storage.scratch() as scratch:
        write_about(scratch, stats, known[-1], edits, edited.excerpt(edits), source, about["read_by"])
        job.storage.reveal()
        write_failed_rows(job)
        for file in sorted(scratch.iterdir(), key=lambda file: file.name == CARD):  # the card last
            job.storage.put(file, file.name)
    for name in (SOURCE, TRANSFORM):
        job.storage.remove(name)
    return stats, edited
