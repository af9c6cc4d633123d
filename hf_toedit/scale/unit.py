"""One unit of work: read, edited, written, and committed by its manifest."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..editing.stats import summarize
from .job import SHARDS, Job, Manifest
from .reading import read_unit

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

    Raises SourceError if its rows can't be read or written.
    """
    started = time.monotonic()
    transform, rows = job.transform, read_unit(job, number)
    column = str(transform.stats_column)

    start = 0

    def edit(batch: Mapping[str, Any]) -> dict[str, Any]:
        nonlocal start
        edited = transform(batch)
        sums = [sum(struct[name] for struct in edited[column]) for name in COUNTED]
        on_batch(BatchDone(number, len(rows), start, len(edited[column]), *sums))
        start += len(edited[column])
        return edited

    edited = rows.map(
        edit,
        batched=True,
        batch_size=job.plan.request["batch_size"],
        keep_in_memory=True,
        new_fingerprint=f"{job.digest}{number}",
    )
    shard = job.plan.shard_name(number)
    with job.storage.scratch() as scratch:
        file = scratch / shard
        edited.to_parquet(str(file))
        digest, num_bytes = _digest(file), file.stat().st_size
        job.storage.put(file, f"{SHARDS}/{shard}")
    stats = summarize(edited, column)
    manifest = Manifest(number, job.digest, shard, num_bytes, digest, stats, {}, {}, time.monotonic() - started)
    job.commit(manifest)
    return manifest


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
