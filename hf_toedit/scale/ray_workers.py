"""Units on a Ray cluster (needs the extra `ray`): each worker is an actor with its own prior.

Actors, not tasks: a task may run in a new process each time, which would load the prior again while an idle one still
has it in the memory of the same GPU. Not datatrove's RayPipelineExecutor: it waits forever for a process that was
killed, and ends without an error if a task fails.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.queue import Empty, Queue

from ..errors import ConfigError, SourceError, ToEditError, any_of, one_clear_line
from .job import Job
from .unit import BatchDone
from .workers import edit_units, threads_of

MOST_RETRIES = 2  # of a unit whose worker died
SECONDS_BETWEEN_REPORTS = 0.5


@dataclasses.dataclass(frozen=True)
class RayOptions:
    """The cluster, and what each worker asks it for.

    address: of a running cluster; None is that of RAY_ADDRESS, else one that runs on this machine, else a new one.
    gpus, memory_gb: of a worker; without memory_gb, Ray does not plan its memory.
    """

    workers: int
    address: str | None = None
    gpus: int = 0
    memory_gb: int | None = None


def _asks_for(job: Job, options: RayOptions) -> dict[str, Any]:
    """The options of an actor."""
    resources = {"num_cpus": threads_of(job), "num_gpus": options.gpus}
    if options.memory_gb is not None:
        resources["memory"] = options.memory_gb * 10**9
    return {**resources, "max_restarts": -1, "max_task_retries": MOST_RETRIES}


class Worker:
    """An actor. index: its number among the workers. folder: where the call was made, which relative paths start at."""

    def __init__(self, out: str, index: int, folder: str) -> None:
        self.job, self.index = Job(out), index
        if os.path.isdir(folder):
            os.chdir(folder)

    def edit(self, number: int, reports: Queue) -> str | None:
        """Edit a unit; the reason if it failed. reports: where to put the worker's number and what a batch added."""
        if not self.job.is_planned():
            host, fix = socket.gethostname(), "put it in a folder that all nodes share, or in an object store"
            raise ConfigError(f"a worker on {host} does not see the output {self.job.out!r}: {fix}")
        try:
            edit_units(self.job, [number], on_batch=lambda _, batch: reports.put((self.index, batch)))
        except SourceError as error:
            return str(error)
        return None


def edit_on_ray(
    job: Job, numbers: Sequence[int], options: RayOptions, on_batch: Callable[[int, BatchDone], None]
) -> None:
    """Edit units on a Ray cluster. One that can't be edited is left out, and the others go on.

    on_batch: called with the number of the worker and what a batch added.

    Raises SourceError at the end if any unit was left out, and at once if the cluster does not answer; PriorError if
    the prior is of no use.
    """
    waiting, failed = deque(numbers), dict[int, str]()
    running: dict[Any, tuple[Any, int]] = {}
    with _cluster(options.address):
        reports = Queue(actor_options={"num_cpus": 0})
        kind: Any = ray.remote(Worker).options(**_asks_for(job, options))
        idle = [kind.remote(job.out, index, os.getcwd()) for index in range(min(options.workers, len(numbers)))]
        try:
            while waiting or running:
                while idle and waiting:
                    actor, number = idle.pop(), waiting.popleft()
                    running[actor.edit.remote(number, reports)] = actor, number
                ended, _ = ray.wait(list(running), timeout=SECONDS_BETWEEN_REPORTS)
                for reference in ended:
                    actor, number = running.pop(reference)
                    idle.append(actor)
                    if (reason := _result(reference)) is not None:
                        failed[number] = reason
                for report in _received(reports):
                    on_batch(*report)
                while idle and not waiting:
                    ray.kill(idle.pop())  # its place goes to a worker that still waits for one
        finally:
            for actor in (*idle, *(actor for actor, _ in running.values())):
                ray.kill(actor)
            reports.shutdown(force=True)
    for number, reason in sorted(failed.items()):
        raise SourceError(f"{len(failed):,} of {len(numbers):,} units failed; unit {number}: {reason}")


def _result(reference: Any) -> str | None:
    """The reason why a unit failed, if it did."""
    try:
        reason: str | None = ray.get(reference)
    except RayActorError as error:
        return f"its worker died {1 + MOST_RETRIES} times ({error})"
    except ToEditError as error:  # with Ray's traceback
        cause = getattr(error, "cause", error)
        raise cause from None
    return reason


def _received(reports: Queue) -> Iterator[tuple[int, BatchDone]]:
    while True:
        try:
            yield reports.get_nowait()
        except Empty:
            return


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Be connected to a cluster; one that this call started is stopped."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    terminated = signal.getsignal(signal.SIGTERM)
    with one_clear_line(
        SourceError,
        "can't connect to the Ray cluster",
        "see `ray status`, or set address= or RAY_ADDRESS",
        catches=any_of(ConnectionError, ValueError),
    ):
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    signal.signal(signal.SIGTERM, terminated)  # which Ray replaced
    try:
        yield
    finally:
        ray.shutdown()
