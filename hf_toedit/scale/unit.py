"""One unit of work: read, edited, written, and committed by its manifest."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..editing.stats import summarize
from .job import SHARDS, Job, Manifest
from .reading import read_unit


@dataclasses.dataclass(frozen=True)
class Progress:
    """What one batch added. All are numbers of rows or tokens."""

    unit: int
    num_rows: int
    num_tokens: int
    num_visited: int
    num_visited_eligible: int
    num_changed: int


def edit_unit(job: Job, number: int, on_batch: Callable[[Progress], None] = lambda progress: None) -> Manifest:
    """Edit a unit and commit it.

    on_batch: called after each batch of rows.

    Raises SourceError if its rows can't be read or written.
    """
    started = time.monotonic()
    transform, rows = job.transform, read_unit(job, number)
    column = str(transform.stats_column)

    def edit(batch: Mapping[str, Any]) -> dict[str, Any]:
        edited = transform(batch)
        sums = [sum(struct[name] for struct in edited[column]) for name in FIELDS]
        on_batch(Progress(number, len(edited[column]), *sums))
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


FIELDS = [field.name for field in dataclasses.fields(Progress) if field.name not in ("unit", "num_rows")]


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
