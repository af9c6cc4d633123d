"""A whole output from finished units: statistics, record, card, and the rows in their place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..editing.stats import DatasetStats, summarize
from ..files.sources import load_source
from ..hub.folder import write_edited
from ..hub.source import Source
from .job import SHARDS, SOURCE, TRANSFORM, Job

if TYPE_CHECKING:
    from datasets import DatasetDict


def finish(job: Job) -> tuple[DatasetStats, DatasetDict]:
    """Write the statistics, the record and the card, and put the rows in their place."""
    plan = job.plan
    about = plan.about
    folder = job.storage.path / SHARDS
    dataset = load_source(str(folder.parent))
    stats = summarize(dataset, str(plan.record["stats_column"]))
    source = None if about["source"] is None else Source(**about["source"])
    write_edited(job.storage.path, dataset, stats, [*about["earlier"], plan.record], source, about["read_by"])
    for name in (SHARDS, SOURCE, TRANSFORM):
        job.storage.remove(name)
    return stats, dataset
