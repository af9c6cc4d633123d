"""One launcher at a time: a second one on the same output would do the same work again.

There is no lock, which a network disk may not have, and no clock, which may differ between machines. A launcher writes
a file and changes it every few seconds. Whoever finds the file of another machine checks whether it changes.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..display import visible
from ..errors import SourceError
from ..files.processes import has_ended, this_process
from .storage import Storage

FOLDER, PREFIX = ".toedit", "launcher-"
BEAT_SECONDS = 10.0
PATIENCE_SECONDS = 90.0  # a network disk may show a change a minute late
LOOK_SECONDS = 0.2


@contextmanager
def only_launcher(storage: Storage) -> Iterator[None]:
    """Be the only launcher of an output while the block runs. Raises SourceError if another one is at work on it."""
    beat = _Beat(storage)
    try:
        _wait_for_others(storage, beat)
        beat.runs = True
        beat.write()
        yield
    finally:
        beat.stop()


def launchers(storage: Storage) -> list[str]:
    """The names of the processes that launched work on an output and have not withdrawn."""
    return [name.removeprefix(PREFIX) for name in storage.names(FOLDER) if name.startswith(PREFIX)]


def _file_of(name: str) -> str:
    return f"{FOLDER}/{PREFIX}{name}"


class _Beat:
    """The file of this launcher, which a thread changes every BEAT_SECONDS.

    runs: False while it looks for others. Of two that find each other looking, the one whose name comes first goes on.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage, self.name = storage, this_process()
        self.runs, self.count = False, 0
        self.done = threading.Event()
        self.write()
        self.thread = threading.Thread(target=self._beat, name="only_launcher", daemon=True)
        self.thread.start()

    def write(self) -> None:
        self.count += 1
        state = {"host": socket.gethostname(), "runs": self.runs, "count": self.count}
        self.storage.write(_file_of(self.name), json.dumps(state).encode())

    def _beat(self) -> None:
        while not self.done.wait(BEAT_SECONDS):
            with suppress(OSError, SourceError):  # a full disk, which the launcher itself will meet
                self.write()

    def stop(self) -> None:
        self.done.set()
        self.thread.join()
        with suppress(OSError, SourceError):
            self.storage.remove(_file_of(self.name))


def _wait_for_others(storage: Storage, own: _Beat) -> None:
    """Return once no other launcher is alive that goes first. Raises SourceError if one does."""
    found: dict[str, tuple[Any, float]] = {}
    while others := [name for name in launchers(storage) if name != own.name]:
        for name in others:
            is_over, state = has_ended(name), _state_of(storage, name)
            if name not in found and state is not None and is_over is None:
                _say_that_it_waits(state["host"])
            first, since = found.setdefault(name, (state, time.monotonic()))
            is_alive = is_over is False or state != first
            if is_over or state is None or (not is_alive and time.monotonic() - since > PATIENCE_SECONDS):
                storage.remove(_file_of(name))
            elif is_alive and (state["runs"] or name < own.name):
                raise SourceError(_at_work(name, state["host"], is_here=is_over is False))
        time.sleep(LOOK_SECONDS)


def _state_of(storage: Storage, name: str) -> Any:
    """What a launcher wrote; None if it has gone meanwhile."""
    try:
        return json.loads(storage.read(_file_of(name)))
    except FileNotFoundError:
        return None


def _say_that_it_waits(host: str) -> None:
    line = f"note: a launcher on {visible(host)} was at work on this output: checking whether it is still alive, for"
    print(f"{line} {PATIENCE_SECONDS:.0f} seconds at most", file=sys.stderr, flush=True)


def _at_work(name: str, host: str, *, is_here: bool) -> str:
    where = f"process {name.split('.')[2]}" + ("" if is_here else f" on {host}")
    return f"another hf-toedit ({where}) is at work on this output: wait until it is done, or stop it"
