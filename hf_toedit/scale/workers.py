"""Workers on this machine: one process each, with its own prior. Those that die are replaced."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from ..errors import ConfigError, PriorError, SourceError, ToEditError, ToEditWarning
from ..statuses import told_afterwards
from ..transform import ToEditTransform
from .interrupts import end_with_parent, fresh_workers
from .job import Job
from .unit import BatchDone, edit_unit

MOST_REASONS = 3
MOST_DEATHS = 3  # of workers on one unit, before it is given up
OUT_OF_MEMORY = "perhaps out of memory: set fewer workers= or a smaller batch_size="
NUM_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")

OnBatch = Callable[[int, BatchDone], None]


def edit_units(
    job: Job,
    numbers: Sequence[int],
    workers: int = 1,
    on_batch: OnBatch = lambda worker, batch: None,
    gpus_per_worker: int | None = None,
    *,
    apart: bool = False,
) -> None:
    """Edit units on this machine. One that can't be edited is left out, and the others go on.

    workers: with one, in this process; else in as many new processes. on_batch: called with the number of the worker
        and what a batch added.
    gpus_per_worker: with several workers, how many GPUs each of them sees. Default: one, if there are GPUs.
    apart: one worker is a new process, too, so that it can die without ending this one. It sees all GPUs.

    Raises SourceError at the end if any unit was left out. Stops with PriorError if the prior is of no use, and with
    OSError if the output can't be written.
    """
    if workers == 1 and gpus_per_worker:
        _share_gpus(1, gpus_per_worker)  # raises if there are too few
    with told_afterwards():
        if workers == 1 and not apart:
            failed = _edit_here(job, numbers, on_batch)
        else:
            gpus = [None] if workers == 1 else _share_gpus(workers, gpus_per_worker)
            failed = _edit_in_processes(job, numbers, gpus, on_batch)
    if failed:
        reasons = [f"unit {number}: {reason}" for number, reason in sorted(failed.items())][:MOST_REASONS]
        raise SourceError(f"{len(failed):,} of {len(numbers):,} units failed; {'; '.join(reasons)}")


def _edit_here(job: Job, numbers: Sequence[int], on_batch: OnBatch) -> dict[int, str]:
    """Edit units in this process; return those that failed, with the reason."""
    failed: dict[int, str] = {}
    with planned_threads(job):
        for number in numbers:
            try:
                edit_unit(job, number, lambda batch: on_batch(0, batch))
            except SourceError as error:
                failed[number] = str(error)
    return failed


def _edit_in_processes(
    job: Job, numbers: Sequence[int], gpus: Sequence[str | None], on_batch: OnBatch
) -> dict[int, str]:
    """Edit units in as many workers as `gpus` has entries; return those that failed, with the reason."""
    pool = _Pool(job, numbers, on_batch)
    try:
        for index in range(min(len(gpus), len(numbers))):
            pool.start(index, gpus[index])
        while pool.workers:
            pool.hear()
    finally:
        pool.kill()
    return pool.failed


def threads_of(job: Job) -> int:
    return int(job.plan.request["threads"])


def default_threads(workers: int) -> int:
    """The number of threads of each worker: an even share of the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)


@contextmanager
def planned_threads(job: Job) -> Iterator[None]:
    """Compute with as many threads as the plan says: the last bits of sums depend on it."""
    threads = threads_of(job)
    torch: Any = sys.modules.get("torch")  # if it is not loaded, it will read the variables
    variables = {name: os.environ.get(name) for name in NUM_THREADS}
    before = torch.get_num_threads() if torch else None
    os.environ.update(dict.fromkeys(NUM_THREADS, str(threads)))
    if torch:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        for name, value in variables.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})
        if torch:
            torch.set_num_threads(before)


def _share_gpus(workers: int, gpus_per_worker: int | None) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES for each worker; None to leave it as it is. Raises ConfigError if there are too few GPUs."""
    if gpus_per_worker == 0:
        return [None] * workers
    import torch

    count = torch.cuda.device_count()
    if not count and gpus_per_worker is None:
        return [None] * workers
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",")[:count] if visible else [str(index) for index in range(count)]
    each = gpus_per_worker or 1
    if workers * each > count:
        fix = f"set workers={count // each}" if count >= each else f"set gpus_per_worker={count}"
        needed = "1 GPU" if workers * each == 1 else f"{workers * each} GPUs"
        raise ConfigError(f"workers={workers} with gpus_per_worker={each} needs {needed}, not {count}: {fix}")
    return [",".join(gpus[index * each : (index + 1) * each]) for index in range(workers)]


@dataclasses.dataclass(frozen=True)
class _UnitFailed:
    """What a worker says of a unit that can't be edited."""

    unit: int
    reason: str


@dataclasses.dataclass
class _Worker:
    """A process. unit: the number of the one it works on; None once there is nothing more for it to do."""

    index: int
    gpus: str | None
    process: BaseProcess
    connection: Connection
    unit: int | None = None
    is_silent: bool = False  # it has closed its end of the connection


class _Pool:
    """The workers, and what is left to do. failed: the units that were given up, with the reason."""

    def __init__(self, job: Job, numbers: Sequence[int], on_batch: OnBatch) -> None:
        self.job, self.on_batch = job, on_batch
        self.waiting = list(reversed(numbers))
        self.context = multiprocessing.get_context("spawn")
        self.workers: list[_Worker] = []
        self.failed: dict[int, str] = {}
        self.deaths: Counter[int] = Counter()
        self.deaths_in_a_row = 0
        self.warned: set[str] = set()

    def start(self, index: int, gpus: str | None) -> None:
        here, there = self.context.Pipe()
        transform = None if self.job.is_kept() else self.job.transform
        arguments = there, self.job.out, gpus, transform
        process = self.context.Process(target=_work, args=arguments, name=f"hf-toedit worker {index}")
        worker = _Worker(index, gpus, process, here)
        self.workers.append(worker)
        with fresh_workers():
            process.start()
        there.close()
        self.hand_out(worker)

    def hand_out(self, worker: _Worker) -> None:
        """Give a worker its next unit, or let it go."""
        worker.unit = self.waiting.pop() if self.waiting else None
        with suppress(OSError):  # it is dead, as `hear` will find out
            worker.connection.send(worker.unit)

    def hear(self) -> None:
        """Wait until workers say something or end, and act on it."""
        speaking = [worker.connection for worker in self.workers if not worker.is_silent]
        ready = wait([*speaking, *(worker.process.sentinel for worker in self.workers)])
        for worker in list(self.workers):
            has_ended = worker.process.sentinel in ready
            if has_ended or worker.connection in ready:
                while (message := _received(worker)) is not None:
                    self.take(worker, message)
            if has_ended:
                self.bury(worker)

    def take(self, worker: _Worker, message: object) -> None:
        if isinstance(message, (ToEditError, OSError)):
            raise message
        if isinstance(message, ToEditWarning):
            if str(message) not in self.warned:
                self.warned.add(str(message))
                warnings.warn(message, stacklevel=4)
            return
        self.deaths_in_a_row = 0
        if isinstance(message, BatchDone):
            self.on_batch(worker.index, message)
            return
        if isinstance(message, _UnitFailed):
            self.failed[message.unit] = message.reason
        self.hand_out(worker)

    def bury(self, worker: _Worker) -> None:
        """Forget a worker that has ended. If work is left, a new one takes its place."""
        self.workers.remove(worker)
        worker.process.join()
        worker.connection.close()
        if worker.unit is not None and self.job.manifest(worker.unit) is None:
            self.give_back(worker.unit, worker.process.exitcode or 0)
        if self.waiting:
            self.start(worker.index, worker.gpus)

    def give_back(self, unit: int, exit_code: int) -> None:
        """Take back the unit of a worker that died, to be handed out again, unless that has happened too often."""
        if exit_code == 1:  # as Python ends after a traceback
            raise PriorError(f"a worker failed on unit {unit}, with the error above")
        how = f"killed by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
        self.deaths[unit] += 1
        self.deaths_in_a_row += 1
        if self.deaths_in_a_row > MOST_DEATHS * (1 + len(self.workers)):
            raise PriorError(f"workers die before they have done anything ({how}), {OUT_OF_MEMORY}")
        if self.deaths[unit] < MOST_DEATHS:
            self.waiting.append(unit)
        else:
            self.failed[unit] = f"its worker died {MOST_DEATHS} times ({how}), {OUT_OF_MEMORY}"

    def kill(self) -> None:
        started = [worker.process for worker in self.workers if worker.process.pid is not None]
        for process in started:
            process.kill()
        for process in started:
            process.join()


def _received(worker: _Worker) -> object:
    """The next message; None if there is none now, or none any more."""
    try:
        return worker.connection.recv() if worker.connection.poll() else None
    except (EOFError, OSError):
        worker.is_silent = True
        return None


def _work(parent: Connection, out: str, gpus: str | None, transform: ToEditTransform | None) -> None:
    """A worker: edit the units that the parent names, and report to it. transform: if the output does not keep it."""
    end_with_parent()
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    job = Job(out)
    if transform is not None:
        job.transform = transform
    with planned_threads(job), told_afterwards(), _warnings_sent_to(parent):
        from tqdm import tqdm

        tqdm.set_lock(
            threading.RLock()
        )  # its own has a semaphore, which would be said to leak if this worker is killed
        with suppress(EOFError, BrokenPipeError):  # the parent is gone
            while (number := parent.recv()) is not None:
                parent.send(_outcome(job, number, parent))


def _outcome(job: Job, number: int, parent: Connection) -> object:
    """Edit a unit and return what the parent is to hear: its number, that it failed, or an error that ends the work."""
    try:
        edit_unit(job, number, parent.send)
    except SourceError as error:
        return _UnitFailed(number, str(error))
    except ToEditError as error:
        return type(error)(str(error))
    except BrokenPipeError:  # the parent is gone
        raise
    except OSError as error:
        return OSError(error.errno, error.strerror or str(error))
    return number


@contextmanager
def _warnings_sent_to(parent: Connection) -> Iterator[None]:
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Any, category: type[Warning], *place: Any) -> None:
            if issubclass(category, ToEditWarning):
                parent.send(message)
            else:
                others(message, category, *place)

        warnings.showwarning = show  # type: ignore[assignment]
        yield
