"""One unit of work: read, edited, written, and committed by its manifest."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..hub.records import edit_counts
from ..rows.column import typed
from ..statuses import told_afterwards
from .failures import PatientEdit
from .job import Job, Manifest
from .plan import Plan
from .reading import read_unit

if TYPE_CHECKING:
    from datasets import Features

COUNTED = ("num_tokens", "num_visited", "num_visited_eligible", "num_changed")


@dataclasses.dataclass(frozen=True)
class BatchDone:
    """What one batch of a unit added: numbers of rows and tokens.

    start: the number of rows of the unit before this batch. num_unit_rows: all rows of the unit.
    """

    unit: int
    num_unit_rows: int
    start: int
    num_rows: int
    num_tokens: int
    num_visited: int
    num_visited_eligible: int
    num_changed: int


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the progress bars of `datasets`, one for each unit."""
    import datasets

    before = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            datasets.enable_progress_bars()


@_no_bars()
def edit_unit(job: Job, number: int, on_batch: Callable[[BatchDone], None] = lambda progress: None) -> Manifest:
    """Edit a unit and commit it.

    on_batch: called after each batch of rows.

    Raises SourceError if its rows can't be read or written; PriorError if the prior can't be used any more.
    """
    started = time.monotonic()
    patient, rows = PatientEdit(job.transform), read_unit(job, number)
    column = str(job.transform.stats_column)

    def edit(batch: Any) -> dict[str, Any]:
        start = patient.num_rows
        edited = patient(batch)
        sums = [sum(struct[name] for struct in edited[column]) for name in COUNTED]
        on_batch(BatchDone(number, len(rows), start, len(edited[column]), *sums))
        return edited

    with told_afterwards():
        edited = rows.map(
            edit,
            batched=True,
            batch_size=job.plan.request["batch_size"],
            features=edited_features(job.plan),
            keep_in_memory=True,
            new_fingerprint=f"{job.digest}{number}",
        )
    shard = job.plan.shard_name(number)
    with job.storage.scratch() as scratch:
        file = scratch / shard
        edited.to_parquet(str(file))
        digest, num_bytes = _digest(file), file.stat().st_size
        job.storage.put(file, f"{job.storage.shards}/{shard}")
    edits, seconds = edit_counts(edited), time.monotonic() - started
    [stats] = [counts.stats for counts in edits if counts.column == column]
    manifest = Manifest(number, job.digest, shard, num_bytes, digest, stats, tuple(edits), patient.reasons, seconds)
    job.commit(manifest)
    return manifest


def edited_features(plan: Plan) -> Features:
    """The features of the edited rows, the same for all shards: those of the source and the `toedit` column."""
    import pyarrow as pa
    from datasets import Features

    column = pa.schema([(str(plan.record["stats_column"]), typed([]).type)])
    return Features({**plan.as_features(), **Features.from_arrow_schema(column)})


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
