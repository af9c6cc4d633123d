"""Edit a dataset with `map`, in freshly spawned processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..statuses import ALL_SKIPPED, told_afterwards
from ..transform import ToEditTransform
from .interrupts import fresh_workers

if TYPE_CHECKING:
    from datasets import Dataset


def edit_rows(
    rows: Dataset,
    transform: ToEditTransform,
    cache: Path,
    *,
    batch_size: int = 1000,
    num_proc: int = 1,
    keep_columns: bool = True,
    title: str = "Editing",
) -> Dataset:
    """The rows, edited by the transform. If all of them are skipped, it is up to the caller to say so.

    cache: the file that `map` writes them to.
    num_proc: the number of worker processes, each with one thread and its own prior.
    keep_columns: False keeps only the columns that the transform adds.
    title: the label of the progress bar.
    """
    with told_afterwards(), _spawned_workers(num_proc):
        return rows.map(
            transform,
            batched=True,
            batch_size=batch_size,
            num_proc=num_proc if num_proc > 1 else None,
            remove_columns=None if keep_columns else rows.column_names,
            cache_file_name=str(cache),
            desc=title,
        )


@contextmanager
def _spawned_workers(num_proc: int) -> Iterator[None]:
    """Spawn the workers of `map`, with one thread each: forks of a process in which torch has run can hang."""
    if num_proc <= 1:
        yield
        return
    import multiprocess

    warnings = os.environ.get("PYTHONWARNINGS")
    ours = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": ",".join(filter(None, (warnings, f"ignore:{ALL_SKIPPED}")))}
    before = {name: os.environ.get(name) for name in ours}
    method = multiprocess.get_start_method()
    multiprocess.set_start_method("spawn", force=True)
    os.environ.update(ours)
    try:
        with fresh_workers():
            yield
    finally:
        multiprocess.set_start_method(method, force=True)
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})
