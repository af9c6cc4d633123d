"""Processes that die at each step of their work on files, one after the other."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from itertools import count

STEPS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
DIED = 77


def crashes(work: Callable[[], object]) -> Iterator[int]:
    """Run the work in a process that dies before its first step on files, then in one that dies before its second, ...

    A step makes, renames, removes, or opens a file for writing. Yields the number of each step after the process has
    died there, until one runs to its end.
    """
    for last in count():
        pid = os.fork()
        if pid == 0:
            _die_at(last)
            try:
                work()
            finally:
                os._exit(sys.exc_info()[1] is not None)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            assert last > 5, "there were hardly any steps to die at"
            return
        assert code == DIED, f"it failed before step {last}"
        yield last


def _die_at(last: int) -> None:
    numbers = count()

    def see(event: str, arguments: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if (event in STEPS or writes) and next(numbers) == last:
            os._exit(DIED)

    sys.addaudithook(see)
