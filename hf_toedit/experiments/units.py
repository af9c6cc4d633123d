"""The rows of a stage, edited in units: a stage that is interrupted resumes with those that are not done."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import PriorError
from ..scale.edited import EditedShards
from ..scale.failures import failed_rows, take_back_failed
from ..scale.job import PLAN, WORK, Job
from ..scale.plan import Plan
from ..scale.planning import UNIT_BYTES, spool
from ..scale.unit import BatchDone, edited_features
from ..scale.workers import edit_units
from ..transform import ToEditTransform
from .recipe import EditSettings

if TYPE_CHECKING:
    from datasets import Dataset

MOST_UNITS = 64  # about; with fewer units than workers, some would have nothing to do
SPLIT = "train"


def edit_in_units(rows: Dataset, transform: ToEditTransform, settings: EditSettings, work: Path) -> Dataset:
    """The rows, edited by the transform. The next call with the same work folder edits only the units not yet done.

    Raises PriorError if the prior fails on a row, or can't be used any more; SourceError if a unit can't be edited.
    """
    from datasets.utils import tqdm

    job = _planned(rows, transform, settings, work)
    take_back_failed(job)
    to_do = job.to_do()
    before = len(rows) - sum(job.plan.units[number].stop for number in to_do)
    with tqdm(unit=" examples", total=len(rows), initial=before, desc="Editing") as progress:

        def show(worker: int, batch: BatchDone) -> None:
            progress.update(batch.num_rows)

        edit_units(job, to_do, settings.num_proc, show, gpus_per_worker=0)  # a worker takes the device of its rank
    if failed := list(failed_rows(job)):
        what = "a row" if len(failed) == 1 else f"{len(failed):,} rows"
        raise PriorError(
            f"the prior failed on {what} ({failed[0]['reason']}): once it works, run the same command again to resume"
        )
    return _joined(job, rows, work / "edited.arrow")


def _planned(rows: Dataset, transform: ToEditTransform, settings: EditSettings, work: Path) -> Job:
    """The job in the work folder, which is planned unless an earlier call did so with the same batches.

    The edit is not kept there, since its prior may have been given a token.
    """
    import torch

    job = Job(str(work))
    job.storage.remove_leftovers()
    if not job.is_planned() or job.plan.request["batch_size"] != settings.batch_size:
        for name in (PLAN, WORK):  # the plan first: without it, nothing else counts
            job.storage.remove(name)
        size = _unit_rows(rows, settings.batch_size)
        starts = range(0, len(rows), size)
        parts = ((SPLIT, rows.select(range(start, min(start + size, len(rows))))) for start in starts)
        planned = spool(parts, job.storage, unit_bytes=sys.maxsize)
        threads = torch.get_num_threads() if settings.num_proc == 1 else 1
        request = {"batch_size": settings.batch_size, "threads": threads}
        about: dict[str, Any] = {"source": None, "earlier": [], "read_by": []}
        record, features = transform.provenance(), rows.features.to_dict()
        plan = Plan(request, record, features, planned.files, planned.units, about)
        job = Job(str(work))
        job.storage.write(PLAN, plan.to_json().encode())
    job.transform = transform
    return job


def _unit_rows(rows: Dataset, batch_size: int) -> int:
    """The number of rows of a unit. Whole batches, so that units do not change which rows are edited together."""
    num_bytes: int = rows.data.nbytes
    fitting = len(rows) * UNIT_BYTES // max(1, num_bytes)
    return batch_size * max(1, min(len(rows) // MOST_UNITS, fitting) // batch_size)


def _joined(job: Job, rows: Dataset, file: Path) -> Dataset:
    """The rows of all units, in order, in a file that is not read into memory. rows: before the edit."""
    import pyarrow as pa
    from datasets import Dataset
    from datasets.fingerprint import Hasher

    shards, features = EditedShards(job), edited_features(job.plan)
    numbers = range(len(job.plan.units))
    with pa.ipc.new_stream(str(file), features.arrow_schema) as stream:
        for number in numbers:
            stream.write_table(shards.table(number, list(features)))
    info = rows.info.copy()
    info.features = features
    digests = [manifest.digest for number in numbers if (manifest := job.manifest(number))]
    return Dataset(Dataset.from_file(str(file)).data, info, fingerprint=Hasher.hash(digests))
