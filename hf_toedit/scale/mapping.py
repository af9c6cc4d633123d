"""Edit a dataset with `map`, in freshly spawned processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections.abc import Mapping
from contextlib import ExitStack
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ToEditError
from ..statuses import told_afterwards
from ..transform import ToEditTransform
from .interrupts import end_with_parent, fresh_workers

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

    cache: the file that `map` writes them to; each of several processes writes one of its own beside it.
    num_proc: the number of worker processes, each with one thread and its own prior.
    keep_columns: False keeps only the columns that the transform adds.
    title: the label of the progress bar.

    Raises ToEditError if a worker dies.
    """
    options: dict[str, Any] = {
        "batched": True,
        "batch_size": batch_size,
        "remove_columns": None if keep_columns else rows.column_names,
    }
    num_proc = min(num_proc, len(rows))
    if num_proc > 1:
        return _edit_in_processes(rows, transform, cache, num_proc, options, title)
    with told_afterwards():
        return rows.map(transform, cache_file_name=str(cache), desc=title, **options)


def _edit_in_processes(
    rows: Dataset, transform: ToEditTransform, cache: Path, num_proc: int, options: Mapping[str, Any], title: str
) -> Dataset:
    """Spawned, not forked: a process with other threads, or in which torch has run, can't be forked safely."""
    from datasets import concatenate_datasets
    from datasets.utils import tqdm

    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, SpawnProcess] = {}
    edited: dict[Connection, Dataset] = {}
    try:
        with fresh_workers():
            for rank in range(num_proc):
                here, there = context.Pipe(duplex=False)
                part, file = rows.shard(num_proc, rank, contiguous=True), cache.with_stem(f"{cache.stem}-{rank}")
                workers[here] = context.Process(target=_work, args=(there, part, transform, file, options))
                workers[here].start()
                there.close()
        with tqdm(unit=" examples", total=len(rows), desc=f"{title} (num_proc={num_proc})") as progress:
            while len(edited) < num_proc:
                for connection in wait(workers.keys() - edited):
                    assert isinstance(connection, Connection)
                    done = _received(workers[connection], connection)
                    if isinstance(done, int):
                        progress.update(done)
                    else:
                        edited[connection] = done
        return concatenate_datasets([edited[connection] for connection in workers])
    finally:
        for worker in workers.values():
            worker.kill()
        for worker in workers.values():
            worker.join()


def _received(worker: SpawnProcess, connection: Connection) -> int | Dataset:
    """A number of rows that a worker has edited, or all its edited rows. Raises the error that ended it."""
    try:
        message = connection.recv()
    except EOFError as error:
        worker.join()
        how = "a worker process ended unexpectedly, with exit code"  # negative: the signal that killed it
        fix = "if the memory is full, use fewer processes or a smaller batch size"
        raise ToEditError(f"{how} {worker.exitcode}; {fix}") from error
    if isinstance(message, tuple):
        raised, where = message
        raise raised from ToEditError(f"in a worker process:\n{where}")
    return message


def _work(parent: Connection, rows: Dataset, transform: ToEditTransform, cache: Path, options: dict[str, Any]) -> None:
    end_with_parent()
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
    import datasets
    from tqdm import tqdm

    datasets.disable_progress_bars()
    tqdm.set_lock(threading.RLock())  # its own has a semaphore, which is reported as leaked if this worker is killed

    def edit(batch: Mapping[str, Any]) -> dict[str, Any]:
        edited: dict[str, Any] = transform(batch)
        parent.send(len(next(iter(edited.values()))))
        return edited

    with told_afterwards(), ExitStack() as stack:
        stack.push(lambda _, error, __: error is not None and _tell(parent, error))
        parent.send(rows.map(edit, cache_file_name=str(cache), new_fingerprint=cache.stem, **options))


def _tell(parent: Connection, error: BaseException) -> bool:
    parent.send((error, "".join(traceback.format_exception(error))))
    return True
