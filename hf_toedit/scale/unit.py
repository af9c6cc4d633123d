"""One unit of work: read, edited, written, and committed by its manifest."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..editing.config import ToEditConfig
from ..errors import SourceError, any_of, one_clear_line
from ..hub.records import edit_counts
from ..rows.column import ids_type, struct_type
from ..rows.tokenized import added_names
from ..statuses import told_afterwards
from .failures import PatientEdit
from .job import Job, Manifest
from .plan import Plan
from .reading import read_unit
from .storage import digest_of

if TYPE_CHECKING:
    from datasets import Dataset, Features

NOT_ENOUGH_MEMORY = one_clear_line(
    SourceError,
    "not enough memory",
    "set a smaller batch_size= or unit_size= and start a new output, or use a machine with more memory",
    catches=any_of(MemoryError),
    says=lambda error: "",
)
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


def edit_unit(job: Job, number: int, on_batch: Callable[[BatchDone], None] = lambda batch: None) -> Manifest:
    """Edit a unit and commit it.

    on_batch: called after each batch of rows.

    Raises SourceError if its rows can't be read, or if there is not enough memory for them; OSError if they can't be
    written; PriorError if the prior can't be used any more.
    """
    started = time.monotonic()
    with _no_bars(), told_afterwards(), NOT_ENOUGH_MEMORY:
        edited, failed = _edit(job, number, on_batch)
        shard = job.plan.shard_name(number)
        num_bytes, digest = _write(job, edited, shard)
        edits = tuple(edit_counts(edited))
    [own] = [counts for counts in edits if counts.column == job.plan.record["stats_column"]]
    seconds = time.monotonic() - started
    manifest = Manifest(number, job.digest, shard, num_bytes, digest, own.stats, edits, failed, seconds)
    job.commit(manifest)
    return manifest


def _edit(job: Job, number: int, on_batch: Callable[[BatchDone], None]) -> tuple[Dataset, dict[int, str]]:
    """The edited rows of a unit, in memory, and those that the prior failed on, with the reason."""
    patient, rows = PatientEdit(job.transform), read_unit(job, number)
    column = str(job.transform.stats_column)

    def edit(batch: Any) -> dict[str, Any]:
        start = patient.num_rows
        edited = patient(batch)
        sums = [sum(struct[name] for struct in edited[column]) for name in COUNTED]
        on_batch(BatchDone(number, len(rows), start, len(edited[column]), *sums))
        return edited

    edited = rows.map(
        edit,
        batched=True,
        batch_size=job.plan.request["batch_size"],
        features=edited_features(job.plan),
        keep_in_memory=True,
        new_fingerprint=f"{job.digest}{number}",
    )
    return edited, patient.reasons


def _write(job: Job, edited: Dataset, shard: str) -> tuple[int, str]:
    """Write a shard; return its size and a digest of it."""
    with job.storage.scratch() as scratch:
        file = scratch / shard
        edited.to_parquet(str(file))
        digest, num_bytes = digest_of(file), file.stat().st_size
        job.storage.put(file, f"{job.storage.shards}/{shard}")
    return num_bytes, digest


def edited_features(plan: Plan) -> Features:
    """The features of the edited rows, the same for all shards: the source's, those that were added, and `toedit`."""
    import pyarrow as pa
    from datasets import Features

    added = added_names(ToEditConfig.from_dict(plan.record["config"]), plan.features)
    columns = [(name, ids_type(name)) for name in added]
    columns.append((str(plan.record["stats_column"]), struct_type(adds=bool(added))))
    return Features({**plan.as_features(), **Features.from_arrow_schema(pa.schema(columns))})
