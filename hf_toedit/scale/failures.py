"""What happens when the prior fails: it is asked again, and rows that it keeps failing on pass through unedited."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from time import sleep
from typing import Any

import numpy as np

from ..editing.scoring import checked_scores
from ..editing.stats import DatasetStats
from ..errors import PriorError, in_one_line
from ..files.secret import scrubbed
from ..statuses import Status
from ..transform import ToEditTransform
from ..types import Prior, ScoreRequest
from .job import Job

FAILED = "failed.jsonl"
AGAIN = "once it works, run the same command again to resume"
PRIOR_FAILS = (PriorError, RuntimeError, OSError, MemoryError)  # CUDA's errors are RuntimeErrors
MOST_IN_A_ROW = 100  # consecutive rows that the prior may fail on before the work stops
WAITS_SECONDS = (1.0, 4.0, 15.0, 40.0)  # until a prior that does not answer at all is asked again


class PatientEdit:
    """Edits the batches of a unit, in order, as the transform does, except where the prior fails.

    It is then asked about the same batch again, so that a passing failure leaves no trace. If it fails again, the batch
    is halved until only the rows that it fails on are left. These pass through, with the status `skipped:prior_failed`.

    reasons: the rows that passed through, by their number among all rows so far, with the prior's error.
    """

    def __init__(self, transform: ToEditTransform) -> None:
        self.transform = transform
        self.reasons: dict[int, str] = {}
        self.num_rows = 0
        self._in_a_row = 0

    def __call__(self, batch: Any) -> dict[str, Any]:
        """The columns that the edit changes, and the `toedit` column. batch: datasets' LazyBatch.

        Raises PriorError if the prior does not answer at all, or has failed on MOST_IN_A_ROW consecutive rows.
        """
        return self._edit(batch, tries=2)

    def _edit(self, batch: Any, tries: int) -> dict[str, Any]:
        size, reason = batch.pa_table.num_rows, ""
        for _ in range(tries):
            try:
                edited: dict[str, Any] = self.transform(batch)
            except PRIOR_FAILS as error:
                reason = scrubbed(in_one_line(error))
                _wait_for(self.transform.prior)
            else:
                self.num_rows += size
                self._in_a_row = 0
                return edited
        if size == 1:
            return self._pass_through(batch, reason)
        half = size // 2
        first, second = (self._edit(part, 2 if len(part.pa_table) == 1 else 1) for part in _split(batch, half))
        return {name: [*first[name], *second[name]] for name in first}

    def _pass_through(self, row: Any, reason: str) -> dict[str, Any]:
        self._in_a_row += 1
        if self._in_a_row == MOST_IN_A_ROW:
            raise PriorError(f"the prior failed on {MOST_IN_A_ROW} consecutive rows ({reason}): {AGAIN}")
        self.reasons[self.num_rows] = reason
        self.num_rows += 1
        return self.transform.skip(row, Status.PRIOR_FAILED)


def _split(batch: Any, size: int) -> Iterator[Any]:
    """The first rows of a LazyBatch, this many, and the others."""
    for part in (batch.pa_table.slice(0, size), batch.pa_table.slice(size)):
        yield type(batch)(part, batch.formatter)


def _wait_for(prior: Prior) -> None:
    """Return when the prior answers a question about one token. Raises PriorError if it doesn't within a minute."""
    smallest = [ScoreRequest(np.array([0, 0]), np.array([1]))]
    for wait in (*WAITS_SECONDS, None):
        try:
            checked_scores(prior, smallest, top_k=2)
            return
        except PRIOR_FAILS as error:
            if wait is None:
                reason = scrubbed(in_one_line(error))
                raise PriorError(f"the prior no longer answers ({reason}): {AGAIN}") from error
        sleep(wait)


def failed_rows(job: Job) -> Iterator[Mapping[str, Any]]:
    """The rows that the prior failed on: split, row, shard and reason, in the order of the splits.

    row: its number in the split; None while the number of rows before it is not known.
    """
    starts: dict[str, int | None] = {}
    for number, (unit, manifest) in enumerate(zip(job.plan.units, job.manifests_by_name(), strict=True)):
        start = starts.setdefault(unit.split, 0)
        for row, reason in manifest.failed.items() if manifest else ():
            place = None if start is None else start + row
            yield {"split": unit.split, "row": place, "shard": job.plan.shard_name(number), "reason": reason}
        starts[unit.split] = None if start is None or manifest is None else start + manifest.stats.num_rows


def take_back_failed(job: Job) -> int:
    """Mark the units with rows that the prior failed on as not done. Returns their number."""
    numbers = [manifest.unit for manifest in job.manifests() if manifest.failed]
    for number in numbers:
        job.take_back(number)
    return len(numbers)


def write_failed_rows(job: Job) -> None:
    """Write `failed.jsonl` (see failed_rows), or remove it if there are none."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in failed_rows(job)]
    if lines:
        job.storage.write(FAILED, "".join(lines).encode())
    else:
        job.storage.remove(FAILED)


def check_any_edited(job: Job, stats: DatasetStats) -> None:
    """Raise PriorError if the prior failed on every row that it was asked about."""
    read = stats.statuses.keys() & {Status.EDITED, Status.UNCHANGED}
    if Status.PRIOR_FAILED in stats.statuses and not read:
        reason = next(failed_rows(job))["reason"]
        raise PriorError(
            f"the prior failed on every row ({reason}): once it works, run the same command with --retry-failed"
        )


def check_no_row_failed(out: str, stats: DatasetStats) -> None:
    """Raise PriorError, with how to go on, if the prior failed on any row."""
    if count := stats.statuses.get(Status.PRIOR_FAILED, 0):
        what = "1 row, which is" if count == 1 else f"{count:,} rows, which are"
        raise PriorError(
            f"the prior failed on {what} unedited and listed in {out}/{FAILED}: run the same command with "
            "--retry-failed to try again"
        )
