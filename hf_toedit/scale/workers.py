"""Workers on this machine: one process each, with its own prior."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from .job import Job
from .unit import BatchDone, edit_unit


def edit_units(
    job: Job, numbers: Sequence[int], workers: int = 1, on_batch: Callable[[int, BatchDone], None] = lambda *_: None
) -> None:
    """Edit units on this machine.

    workers: with one, in this process; else in as many new processes. on_batch: called with the number of the worker
        and what a batch added.
    """
    if workers == 1:
        for number in numbers:
            edit_unit(job, number, lambda progress: on_batch(0, progress))
        return
    context = multiprocessing.get_context("spawn")
    waiting = list(reversed(numbers))
    busy: dict[Any, tuple[int, Any]] = {}
    for worker in range(min(workers, len(numbers))):
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there, job.out))
        process.start()
        there.close()
        here.send(waiting.pop())
        busy[here] = worker, process
    while busy:
        for connection in wait(list(busy)):
            assert isinstance(connection, Connection)
            worker, process = busy[connection]
            message = connection.recv()
            if isinstance(message, BatchDone):
                on_batch(worker, message)
                continue
            connection.send(waiting.pop() if waiting else None)
            if not waiting:
                process.join()
                del busy[connection]


def _work(parent: Connection, out: str) -> None:
    job = Job(out)
    while (number := parent.recv()) is not None:
        edit_unit(job, number, parent.send)
        parent.send(number)
