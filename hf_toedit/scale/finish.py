"""A whole output from finished units: statistics, record, card, and the rows in their place."""

from __future__ import annotations

from ..editing.stats import DatasetStats
from ..hub.folder import write_about
from ..hub.merging import CARD
from ..hub.records import DatasetEdit, all_records, edits_counted, records_of
from ..hub.source import Source
from ..rows.provenance import without_paths
from ..statuses import Status
from .edited import EditedShards
from .failures import check_any_edited, write_failed_rows
from .job import PLAN, SOURCE, TRANSFORM, Job


def finish(job: Job) -> tuple[DatasetStats, EditedShards]:
    """Write the statistics, the record and the card, and put the rows in their place.

    The manifests count the rows; only a few are read again, for the card. If a call is interrupted, the next one
    finishes.

    Raises SourceError if a unit is not done; PriorError if the prior failed on every row.
    """
    edited = EditedShards(job)
    stats = edited.with_equal_texts()
    check_any_edited(job, stats)
    if not job.is_finished():
        _write(edited, stats)
    if Status.PRIOR_FAILED not in stats.statuses and (plan := job.plan.without_paths()) != job.plan:
        job.storage.write(PLAN, plan.to_json().encode())  # with failed rows, --retry-failed reads the source again
    return stats, edited


def _write(edited: EditedShards, stats: DatasetStats) -> None:
    """All that a finished output has and an unfinished one hasn't."""
    job = edited.job
    about, edits = job.plan.about, edits_in(edited)
    source = None if about["source"] is None else Source(**about["source"])
    with job.storage.scratch() as scratch:
        record, excerpt = without_paths(job.plan.record), edited.excerpt(edits)
        write_about(scratch, stats, record, edits, excerpt, source, about["read_by"])
        job.storage.reveal()
        write_failed_rows(job)
        for file in sorted(scratch.iterdir(), key=lambda file: file.name == CARD):  # the card last
            job.storage.put(file, file.name)
    for name in (SOURCE, TRANSFORM):
        job.storage.remove(name)


def edits_in(edited: EditedShards) -> list[DatasetEdit]:
    """The edits in the rows, earlier ones first."""
    plan = edited.job.plan
    known = [*map(without_paths, records_of([*plan.about["earlier"], plan.record]))]
    return edits_counted(edited.counts, all_records(edited.counts, known))
