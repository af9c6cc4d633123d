"""The rows of a unit, as a Dataset with the features of the plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .job import Job

if TYPE_CHECKING:
    from datasets import Dataset


def read_unit(job: Job, number: int) -> Dataset:
    """The rows of a unit.

    Raises SourceError if the file is gone, has changed since the plan was made, or can't be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

    unit = job.plan.units[number]
    file = pa.BufferReader(job.storage.read(job.plan.files[unit.file].path))
    table = pq.read_table(file).slice(unit.start, unit.stop - unit.start)
    return Dataset(table).cast(job.plan.as_features())
