"""Jobs in several processes, which never outlive the work."""

from __future__ import annotations

import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from ..errors import ConfigError, ToEditError, any_of, one_clear_line
from ..scale.interrupts import end_with_parent, fresh_workers

MAIN = "__main__"
FIX = "if nothing above says why, the memory may be full: use fewer workers"


@contextmanager
def in_processes(
    work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], workers: int, begin: Callable[[], None] | None = None
) -> Iterator[Iterator[Any]]:
    """The result of `work(*job)` for each job, in order. begin: what each process calls before its first job.

    Raises ConfigError if other processes can't import the work, and ToEditError if one of them is killed.
    """
    context = get_context("spawn")
    check_importable(work, jobs)
    mine, theirs = context.Pipe(duplex=False)
    lost = one_clear_line(
        ToEditError, "a worker process ended unexpectedly", FIX, catches=any_of(BrokenProcessPool), says=lambda _: ""
    )
    with mine, theirs, lost, ProcessPoolExecutor(min(workers, len(jobs)), context, _begin, (mine, begin)) as pool:
        try:
            with fresh_workers():
                futures = [pool.submit(work, *job) for job in jobs]
            yield (future.result() for future in futures)
        except BaseException:
            theirs.close()  # otherwise the pool waits for what its workers are doing
            raise


def check_importable(work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> None:
    """Raise ConfigError for a class, such as a setting, that a process of its own can't import."""
    fix = "move its class to the top of a module, or set workers=1"
    errors = any_of(pickle.PicklingError, AttributeError, TypeError)
    with one_clear_line(ConfigError, "can't be sent to worker processes", fix, catches=errors):
        sent = pickle.dumps((work, list(jobs)))
    main = sys.modules[MAIN]
    is_a_module = main.__spec__ is not None or os.path.exists(getattr(main, "__file__", ""))
    if MAIN.encode() in sent and not is_a_module:
        raise ConfigError(f"worker processes can't import what is defined in a notebook or at a prompt: {fix}")


def _begin(parent: Connection, begin: Callable[[], None] | None) -> None:
    end_with_parent()
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()
    if begin is not None:
        begin()


def _end_after(parent: Connection) -> None:
    """End this process once the other end of the pipe is closed."""
    with suppress(EOFError, OSError):
        parent.recv()
    os._exit(1)
