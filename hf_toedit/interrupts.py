"""Ctrl-C and SIGTERM: what was begun is cleaned up, worker processes end without a word."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from .errors import StoppedError


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into one StoppedError error, raised when the block has cleaned up after itself.

    Processes that are forked within the block leave SIGINT, which a terminal sends to all, to their parent. A signal
    that is ignored stays ignored.
    """
    owner = os.getpid()
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            received.append(number)
            raise KeyboardInterrupt
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
            raise StoppedError(received[0])
