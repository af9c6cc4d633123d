"""Ctrl-C and SIGTERM clean up and stop the workers quietly; a closed pipe (`| head`) does not stop the work.

If the disk under stdout is full, that is an error in one line.

Workers end with the process that started them, whatever ends it.
"""

from __future__ import annotations

import ctypes
import errno
import io
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, SimpleNamespace
from typing import Any

from ..errors import NO_ROOM, SourceError, StoppedError

PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that this process gets when its parent ends
WATCH_SECONDS = 0.5
STDOUT = 1
GONE = (errno.EPIPE, errno.EIO)
_hold = SimpleNamespace(is_on=False, has_come=False)  # of `held_back`


class _Patient(io.FileIO):
    """A standard stream that goes silent once its reader (`| head`) or its terminal is gone, or its disk is full.

    On stdout, a full disk also raises SourceError, once.
    """

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (*GONE, *NO_ROOM):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if error.errno in NO_ROOM and self.fileno() == STDOUT:
                raise SourceError(f"can't write to stdout: {error.strerror}; free some space") from error
            return super().write(data)


def outlive_readers() -> None:
    """Keep working when nobody reads this process's output or progress bars any more."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and stream is getattr(sys, f"__{name}__"):
            stream.flush()
            file = io.BufferedWriter(_Patient(stream.fileno(), "w", closefd=False))
            again = io.TextIOWrapper(
                file,
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, again)


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into one StoppedError, raised after the block has cleaned up.

    Processes forked within the block leave SIGINT, which a terminal sends to all of them, to their parent. A signal
    that is already ignored stays ignored.
    """
    owner = os.getpid()
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            received.append(number)
            if not _hold.is_on:
                raise KeyboardInterrupt
            _hold.has_come = True
            return
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    in_main_thread = threading.current_thread() is threading.main_thread()
    usual: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    caught = [number for number, handler in usual.items() if in_main_thread and signal.getsignal(number) == handler]
    try:
        for number in caught:
            signal.signal(number, stop)
        yield
    finally:
        for number in caught:
            signal.signal(number, usual[number])
        if received:  # whatever error it led to
            exec("")  # `python -m` would end by SIGINT if the signal came within exec(), as in making a dataclass
            raise StoppedError(received[0])


@contextmanager
def held_back() -> Iterator[None]:
    """Let a signal that `interruptible` catches wait for the end of the block, in which a process is started.

    Otherwise the new process would read half of what it is sent, and end with a traceback.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, _hold.is_on = _hold.is_on, True
    try:
        yield
    finally:
        _hold.is_on = before
        if _hold.has_come and not before:
            _hold.has_come = False
            raise KeyboardInterrupt


@contextmanager
def fresh_workers() -> Iterator[None]:
    """Make processes spawned within the block leave SIGINT, which a terminal sends to all, to this one.

    They inherit the signals that the thread starting them blocks. One that comes meanwhile arrives afterwards.
    """
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # starting it within the block would unblock SIGINT
    with held_back():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """End this process, a worker, once its parent is gone. A worker calls it before anything else.

    A thread watches for the parent's end. On Linux the kernel does, too, so that even a worker stuck in foreign code
    ends; it goes by the thread that started the worker, which therefore must live as long as the worker may.
    """
    pid, starter = os.getppid(), multiprocessing.parent_process()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if starter is not None and not starter.is_alive():  # it ended before this process began to watch
        os._exit(128 + signal.SIGKILL)
    threading.Thread(target=_end_after, args=(pid,), name="end_with_parent", daemon=True).start()


def _end_after(pid: int) -> None:
    while os.getppid() == pid:
        time.sleep(WATCH_SECONDS)
    os._exit(128 + signal.SIGKILL)
